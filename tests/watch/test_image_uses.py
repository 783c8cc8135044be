"""Whether a run still needs its image."""

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launcher._util.shell import Result
from launcher.contract.process import start_ticks_of
from launcher.images.store.uses import Use
from launcher.watch.image_uses import liveness
from tests.support.recorder import Recorder
from tests.watch.run_dirs import BEGIN, make_attempt, make_run, submitted

NOW = BEGIN + 100
FINISHED = {"outcome": "finished", "iteration": 20}
SILENT = Result(("squeue",), 1, "", "Unable to contact slurm controller (connect failure)")
DISABLED = Result(("sacct",), 1, "", "Slurm accounting storage is disabled")


def use(run_dir: Path, **changes: Any) -> Use:
    values: dict[str, Any] = {
        "run_id": run_dir.name,
        "run_dir": str(run_dir),
        "backend": "batch",
        "cluster": "here",
        "user": "ada",
        "host": socket.gethostname(),
        "at": BEGIN,
        "job": None,
        "pid": os.getpid(),
        "start_ticks": start_ticks_of(os.getpid()),
    }
    return Use(**values | changes)


def ended() -> dict[str, int]:
    process = subprocess.Popen(["true"])
    process.wait()
    return {"pid": process.pid, "start_ticks": 5}


def lives(one: Use, **answers: Result) -> bool | None:
    shell = Recorder({"sacct": DISABLED, **answers})
    return liveness([one], "here", shell, clock=lambda: NOW)(one)


def squeue(*states: str) -> Result:
    lines = [f"12|12|{state}|{int(NOW)}|{int(NOW)}|{int(NOW)}|n1|None" for state in states]
    return Result(("squeue",), 0, "\n".join(lines) + "\n", "")


@pytest.mark.parametrize(
    ("state", "expected"),
    [("PENDING", True), ("RUNNING", True), ("COMPLETING", True), ("COMPLETED", False), ("CANCELLED", False)],
)
def test_a_job_is_slurms_to_judge(tmp_path: Path, state: str, expected: bool) -> None:
    one = use(tmp_path / "runs/small/1", job="12")
    assert lives(one, squeue=squeue(state)) is expected


def test_a_job_that_the_queue_has_forgotten_is_over_and_one_without_an_answer_is_not(tmp_path: Path) -> None:
    one = use(tmp_path / "runs/small/1", job="12")
    assert lives(one, squeue=squeue()) is False
    assert lives(one, squeue=SILENT) is None


def test_the_job_of_another_cluster_is_not_asked_for_here(tmp_path: Path) -> None:
    one = use(tmp_path / "runs/small/1", job="12", cluster="elsewhere")
    assert lives(one, squeue=squeue()) is None
    assert lives(one, squeue=squeue("COMPLETED")) is None


def test_a_launcher_that_lives_needs_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs/small/1")
    make_attempt(run, result=FINISHED)
    assert lives(use(run.path)) is True
    assert lives(use(run.path, host="login2")) is None, "it may be submitting at this moment"


def test_after_the_launcher_the_run_directory_decides(tmp_path: Path) -> None:
    gone = ended()
    killed_before_submitting = make_run(tmp_path / "runs/small/1")
    assert lives(use(killed_before_submitting.path, **gone)) is False
    cut_off = make_run(tmp_path / "runs/small/2", {"event": "submit_intent", "token": "t"})
    assert lives(use(cut_off.path, **gone), squeue=SILENT) is None
    assert lives(use(cut_off.path, **gone), squeue=squeue()) is False
    job_not_noted = make_run(tmp_path / "runs/small/3", *submitted())
    assert lives(use(job_not_noted.path, **gone), squeue=squeue("RUNNING")) is True
    assert lives(use(job_not_noted.path, **gone), squeue=squeue("COMPLETED")) is False
    assert lives(use(job_not_noted.path, host="login2", at=NOW - 7200), squeue=squeue("RUNNING")) is True
    local = make_run(
        tmp_path / "runs/small/4", {"event": "launched", "attempt": "000", "host": "login2", "pid": 5}, backend="local"
    )
    elsewhere = {"backend": "local", "host": "login2", "at": NOW - 7200}
    assert lives(use(local.path, **elsewhere)) is None, "only that machine sees its process"
    make_attempt(local, result=FINISHED)
    assert lives(use(local.path, **elsewhere)) is False


def test_a_run_that_was_taken_back_needs_nothing_but_an_absent_file_system_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "runs/small").mkdir(parents=True)
    assert lives(use(tmp_path / "runs/small/1", **ended())) is False
    assert lives(use(tmp_path / "other/small/1", **ended())) is None
