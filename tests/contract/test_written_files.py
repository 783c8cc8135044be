"""Every writer keeps to the contract: the toy, the shell scripts, the launcher itself.

The real rank: tests/job/test_profiling.py for one that trains, tests/job/test_training.py for one that fails.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.backends.prepare import create
from launcher.contract import rank_ends
from launcher.contract.paths import RunPaths
from launcher.contract.records.journal import Lease
from launcher.contract.validation import problems
from launcher.discovery.code_files import code_files
from launcher.discovery.recipe import read_recipe
from launcher.discovery.shipped_code import shipped_code
from launcher.planning.model import Plan
from launcher.scripts import scripts
from tests.backends.running import ROOT, TOY, user_of
from tests.contract.written import check_written
from tests.support.building import cluster, plan
from tests.support.limits import seconds

SCONTROL = """#!/bin/bash
[[ $2 == hostnames ]] && echo n1 || echo "NodeName=n1 NodeAddr=127.0.0.1 State=IDLE"
"""
SRUN = """#!/bin/bash
# One task after the other starts, as srun starts them: with Slurm's variables and a log of its own.
ntasks=1 output=/dev/stdout
while [[ $1 == --* ]]; do
    case $1 in
        --ntasks=*) ntasks=${1#*=} ;;
        --output=*) output=${1#*=} ;;
    esac
    shift
done
export SLURM_NTASKS=$ntasks SLURM_STEP_ID=0 SLURM_NODEID=0
status=0 pids=()
for ((rank = 0; rank < ntasks; rank++)); do
    printf -v log "${output/\\%4t/%04d}" "$rank"
    SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" >"$log" 2>&1 &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "$status"
"""


def prepared(directory: Path, *overrides: str) -> Plan:
    """A batch run of the toy on one node with two ranks, written to disk."""
    recipe = read_recipe(str(ROOT / "recipes/vanilla_gpt_pretrain.py"), ROOT)
    made = dataclasses.replace(
        plan(profile=cluster(scheduler="slurm", gpus_per_node=2), changes=overrides),
        run_dir=str(directory / "runs" / "small" / "20260921-120000-abcd"),
        python=sys.executable,
        code=code_files(shipped_code(recipe), TOY, ROOT),
    )
    create(made, scripts(made))
    return made


def run_batch_script(directory: Path, run: RunPaths) -> int:
    """Run sbatch.sh as Slurm would, with programs in Slurm's place."""
    bin_dir = directory / "bin"
    bin_dir.mkdir()
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (bin_dir / name).write_text(text)
        (bin_dir / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "n1",
    }
    return subprocess.run(
        ["bash", str(run.sbatch_script)], env=environment, timeout=seconds(60), check=False
    ).returncode


@pytest.mark.parametrize(
    ("overrides", "status", "outcome"),
    [
        ((), 0, "finished"),
        (("toy.fail_rank=1", "toy.fail_how=raise"), 1, "failed"),
        (("toy.fail_rank=1", "toy.fail_how=kill"), 1, "failed"),
    ],
)
def test_batch_scripts_and_the_toy(tmp_path: Path, overrides: tuple[str, ...], status: int, outcome: str) -> None:
    made = prepared(tmp_path, "toy.iters=4", "toy.seconds=0", *overrides)
    run = RunPaths(Path(made.run_dir))
    log = run.attempt_paths("000").srun_log
    assert run_batch_script(tmp_path, run) == status, log.read_text() if log.exists() else "no log"
    counts = check_written(run)
    assert (counts["argv.json"], counts["result.json"], counts["exit of a rank"]) == (1, 1, 2)
    assert counts["record of a rank"] == (1 if "toy.fail_how=kill" in overrides else 2)
    assert counts["metrics.jsonl"] == 4
    assert f'"outcome": "{outcome}"' in run.attempt_paths("000").result_file.read_text()
    assert not run.lease.exists(), "the job has ended"
    ended = json.loads(run.ended_lease(made.token).read_text())
    assert list(problems(ended, Lease)) == []
    assert (ended["job_id"], ended["attempt"], run.latest.resolve().name) == ("77", "000", "000")


def test_the_launcher_itself(tmp_path: Path) -> None:
    user = user_of(tmp_path)
    options = ("--cluster", "local", "--gpus-per-node", "2", "--entrypoint", TOY)
    user.run("run", "small.py", *options, "toy.iters=3")
    (directory,) = user.runs()
    counts = check_written(RunPaths(directory))
    assert (counts["journal.jsonl"], counts["result.json"], counts["exit of a rank"]) == (1, 1, 2)


def test_a_signal_is_an_exit_status(tmp_path: Path) -> None:
    made = prepared(tmp_path, "toy.fail_rank=0", "toy.fail_how=kill", "toy.fail_step=1")
    run = RunPaths(Path(made.run_dir))
    run_batch_script(tmp_path, run)
    end = rank_ends.of_rank(run.attempt_paths("000"), 0).exit
    assert end is not None
    assert end["status"] == 128 + signal.SIGKILL
