"""What sweeps cost, and how often they are wrong about the best point.

Planning 10,000 points, and submitting 1,000 on a virtual Slurm, beside one sbatch for each.

    python -m benchmarks.sweep [--points 10000] [--submit 1000] [--claims 200]

Planning runs in a process of its own, whose CPU time and memory are those of the whole command. For the submission a
virtual cluster is started; its jobs are held, so that only the launcher and the controller work.
"""

import argparse
import contextlib
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.backends.running import LAUNCHER
from tests.support.slurm.virtual_cluster import virtual_cluster
from tests.sweep.sweeping import log_calls, sweep_user, write_sweep
from tests.sweep.test_compare import simulated

PLANNED = """\
[run]
recipe = "bridge:llama32_1b_pretrain_config"
cluster = "slurm"
gpus_per_node = 8
check_config = false
assignments = ["train.global_batch_size=64", "train.train_iters=50"]
[axes]
nodes = [1, 2]
[axes.overrides]
"train.micro_batch_size" = [1, 2]
"optimizer.lr" = [{rates}]
"""


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--submit", type=int, default=1_000, help="0: no virtual cluster")
    parser.add_argument("--claims", type=int, default=200, help="simulated sweeps of each kind; 0: none")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweep-") as directory:
        seconds, peak_mib = plan(Path(directory), parsed.points)
        print(f"planning {parsed.points} points: {seconds:.1f} s of CPU, {peak_mib:.0f} MiB")
    if parsed.submit:
        submitting(parsed.submit)
    for kind in KINDS if parsed.claims else ():
        claims(kind, parsed.claims)
    return 0


def plan(directory: Path, points: int) -> tuple[float, float]:
    """Plan so many points; return CPU seconds and the peak of memory in MiB."""
    programs = directory / "bin"
    programs.mkdir()
    for name in ("srun", "sbatch"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    rates = ", ".join(f"{1e-5 * (1 + number):.8f}" for number in range(points // 4))
    (directory / "large.toml").write_text(PLANNED.format(rates=rates))
    environ = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "LAUNCHER_CACHE": str(directory)}
    done = subprocess.run(
        [str(LAUNCHER), "sweep", "large.toml", "--dry-run", "--json"],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    if done.stdout.count('"refused": null') != points // 4 * 4:
        sys.exit("some points cannot be run")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def submitting(points: int) -> None:
    """Submit and observe a sweep, and the same number of jobs one by one."""
    with virtual_cluster() as cluster, tempfile.TemporaryDirectory(prefix="sweep-") as directory:
        user = sweep_user(Path(directory), cluster)
        log = log_calls(user)
        file = write_sweep(user, points, run="sbatch = {hold = true}")
        with timed(f"submitting {points} points", log):
            user.run("sweep", file, timeout_s=1800)
        with timed(f"status of {points} points", log):
            user.run("sweep", "status", "runs/many", "--json", timeout_s=600)
        few = min(points, 50)
        script = user.directory / "runs/many/sweep/arrays/000/array.sh"
        with timed(f"{few} calls of sbatch alone", log):
            for _ in range(few):
                user.call(["sbatch", "--parsable", "--hold", str(script)])
        arguments = ("--nodes=1", "--gpus-per-node=1", "--no-check-config", "--sbatch", "hold", "--entrypoint=count.py")
        with timed("5 calls of launcher submit", log):
            for number in range(5):
                user.run("submit", "small.py", *arguments, f"toy.seed={number}")


KINDS: Mapping[str, tuple[float, float, float]] = {
    "differ by 5 %": (1.05, 0.004, 0.004),
    "differ by 1 %": (1.01, 0.004, 0.004),
    "equal": (1.0, 0.004, 0.004),
    "differ by 1 %, the second varies": (1.01, 0.004, 0.05),
    "differ by 1 %, the best varies": (1.01, 0.05, 0.004),
}
"""The time of the second point, and how much runs of the first and the second differ."""


def claims(kind: str, number: int) -> None:
    """Simulate sweeps of eight points with repeats; print how many claims are wrong."""
    second, *noise = KINDS[kind]
    times = {"p0": 1.0, "p1": second, **{f"p{index}": 1.03 + 0.02 * index for index in range(2, 8)}}
    spreads = {**dict.fromkeys(times, 0.004), "p0": noise[0], "p1": noise[1]}
    wrong = named = runs = noisy = 0
    for seed in range(number):
        found, count = simulated(random.Random(f"{kind} {seed}"), times, spreads)  # noqa: S311 - reproducible
        is_best = found.verdict == "best"
        named += is_best
        wrong += is_best and (found.standings[0].name != "p0" or second == 1.0)
        noisy += any(each.noisy for each in found.standings)
        runs += count
    print(f"{kind}: {wrong} of {number} wrong, {named} named, {runs / number:.1f} runs, {noisy} with a noisy point")


@contextlib.contextmanager
def timed(what: str, log: Path) -> Iterator[None]:
    """Print how long the block took, the CPU time of its programs, and how often it has called Slurm."""
    log.unlink(missing_ok=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    yield
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    calls = len(log.read_text().splitlines()) if log.exists() else 0
    print(f"{what}: {time.monotonic() - began:.1f} s, {cpu:.1f} s of CPU, {calls} calls to Slurm")


if __name__ == "__main__":
    sys.exit(main())
