"""Sweeps of toys on a virtual cluster, whose jobs count themselves."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.backends.running import TOY, User, user_of
from tests.faults.shims import put
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until

COUNT = f"""\
import os, runpy, time
from pathlib import Path

run = Path(os.environ["LAUNCHER_RUN_DIR"])
with (run.parent.parent / "counted").open("a") as file:
    file.write(
        f"{{run.name}} {{os.environ['SLURM_ARRAY_JOB_ID']}}_{{os.environ['SLURM_ARRAY_TASK_ID']}} "
        f"{{os.environ['LAUNCHER_ATTEMPT']}}\\n"
    )
runpy.run_path({TOY!r}, run_name="__main__")
"""
_LOGGED = """#!/bin/bash
[[ -n ${{SLURM_JOB_ID-}} ]] || echo "$(basename "$0") $*" >>{log}
exec /usr/bin/$(basename "$0") "$@"
"""
COMMANDS = ("sbatch", "scancel", "scontrol", "sacct", "sinfo", "squeue")


def sweep_user(directory: Path, cluster: VirtualCluster) -> User:
    """A user with a program that appends a line for each of its runs, and then is a toy."""
    user = user_of(directory, cluster)
    (directory / "count.py").write_text(COUNT)
    return user


def log_calls(user: User) -> Path:
    """Have the user's calls to Slurm written into a file, jobs' own left out; return it."""
    log = user.directory / "calls.log"
    put(user, dict.fromkeys(COMMANDS, _LOGGED.format(log=log)))
    return log


def write_sweep(user: User, points: int, *, name: str = "many", head: str = "", run: str = "", more: str = "") -> str:
    """Write a sweep over toy.fail_step: the first point fails at step 3, all others succeed. Return its file."""
    steps = [3, *range(101, 100 + points)]
    (user.directory / f"{name}.toml").write_text(
        f'{head}\nwarmup_steps = 1\n[run]\nrecipe = "small.py"\nnodes = 1\ngpus_per_node = 1\nentrypoint = "count.py"\n'
        f'check_config = false\nassignments = ["toy.iters=6", "toy.fail_rank=0", "toy.seconds=0.01"]\n{run}\n'
        f'[axes.overrides]\n"toy.fail_step" = {steps}\n{more}'
    )
    return f"{name}.toml"


def counted(user: User) -> Counter[str]:
    """How often each run's program has run, by its own account."""
    path = user.directory / "runs/counted"
    return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()


def attempts_begun(user: User) -> Counter[tuple[str, str]]:
    """How often the program of each run's attempt has run, by its own account."""
    lines = [line.split() for line in (user.directory / "runs/counted").read_text().splitlines()]
    return Counter((run, attempt) for run, _, attempt in lines)


def status(user: User, name: str = "many") -> dict[str, Any]:
    """What `launcher sweep status --json` says."""
    return dict(json.loads(user.run("sweep", "status", f"runs/{name}", "--json").stdout))


def by_step(found: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The trials of a status by their value of toy.fail_step."""
    return {trial["values"]["toy.fail_step"]: trial for trial in found["trials"]}


def tasks(cluster: VirtualCluster, user: User) -> Counter[str]:
    """The tasks of the user's arrays in Slurm, by ARRAY_INDEX."""
    lines = cluster.run("squeue", "-h", "-r", "--states=all", "-o", "%i|%o").stdout.splitlines()
    return Counter(line.partition("|")[0] for line in lines if f"|{user.directory}/runs/" in line)


def wait_for_end(cluster: VirtualCluster, user: User, limit_s: float = 120) -> None:
    """Wait until no task of the user's is in the queue that may still run."""

    def over() -> bool:
        lines = cluster.run("squeue", "-h", "-r", "-o", "%o").stdout.splitlines()
        return not any(str(user.directory) in line for line in lines)

    wait_until(over, "the tasks to end", cluster, limit_s)
