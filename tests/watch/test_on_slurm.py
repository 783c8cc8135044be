"""Status, logs and cancel of runs on a real Slurm, with the toy program."""

import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher._util.shell import LocalShell
from launcher.rundir import RunDirectory
from launcher.watch.cancel import cancel_run
from launcher.watch.logs import follow_logs
from launcher.watch.status import Phase, RunStatus, status_of
from tests.backends.running import TOY, User, user_of
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until


@pytest.fixture
def user(slurm_cluster: VirtualCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> User:
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.conf))
    return user_of(tmp_path, slurm_cluster)


def submit(user: User, *settings: str) -> RunDirectory:
    user.run("submit", "small.py", "--nodes=2", "--gpus-per-node=2", f"--entrypoint={TOY}", *settings)
    return RunDirectory.at(user.runs()[-1])


def status(run: RunDirectory) -> RunStatus:
    return status_of([run], LocalShell())[0][0]


def until(run: RunDirectory, *phases: Phase, timeout_s: float = 30) -> RunStatus:
    deadline = time.monotonic() + seconds(timeout_s)
    while (now := status(run)).phase not in phases and time.monotonic() < deadline:
        time.sleep(0.1)
    assert now.phase in phases, now
    return now


def test_from_the_queue_to_the_end(user: User, slurm_cluster: VirtualCluster) -> None:
    blocker = slurm_cluster.submit("sleep 600", "-N4", "--exclusive")
    slurm_cluster.wait(blocker, "RUNNING")
    run = submit(user, "toy.iters=20", "toy.seconds=0.05")
    waiting = status(run)
    assert waiting.phase is Phase.QUEUED
    assert waiting.job_state == "PENDING"
    slurm_cluster.run("scancel", blocker)
    until(run, Phase.STARTING, Phase.RUNNING, Phase.FINISHED)
    stream = io.StringIO()
    follow_logs(run, stream, LocalShell())
    assert stream.getvalue().splitlines() == [
        *(f"iteration {n}/20" for n in range(1, 21)),
        "rank 0 finished at iteration 20",
    ]
    end = until(run, Phase.FINISHED)
    assert (end.to_dict()["iteration"], end.to_dict()["train_iters"], end.phase.over) == (20, 20, True)


def test_a_failure_names_its_rank_and_its_node(user: User) -> None:
    run = submit(user, "toy.iters=200", "toy.seconds=0.05", "toy.fail_rank=3", "toy.fail_how=kill")
    end = until(run, Phase.FAILED)
    first = end.to_dict()["first_failing_rank"]
    assert (first["rank"], first["host"]) == (3, "n2")
    assert "SIGKILL" in first["what"]


def test_cancelled(user: User, slurm_cluster: VirtualCluster) -> None:
    run = submit(user, "toy.iters=2000", "toy.seconds=0.05")
    until(run, Phase.RUNNING)
    assert "is cancelled" in cancel_run(run, LocalShell())
    # The toy saves and stops when it is asked to; the job is cancelled all the same.
    end = until(run, Phase.CANCELLED, Phase.STOPPED)
    assert end.job_state in ("CANCELLED", "COMPLETING")
    assert cancel_run(run, LocalShell()).startswith("the run has already ended")


def test_saved_and_stopped(user: User) -> None:
    run = submit(user, "toy.iters=2000", "toy.seconds=0.05")
    until(run, Phase.RUNNING)
    cancel_run(run, LocalShell(), save=True)
    end = until(run, Phase.STOPPED)
    assert "requested" in end.detail
    assert (run.checkpoints / "latest_checkpointed_iteration.txt").exists()


def test_a_controller_that_is_away_changes_nothing(
    new_cluster: Callable[..., VirtualCluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = new_cluster(nodes=2, message_timeout_s=1)
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    run = submit(user_of(tmp_path, cluster), "toy.iters=4000", "toy.seconds=0.05")
    running = until(run, Phase.RUNNING)
    cluster.stop_controller()
    away = status(run)
    assert (away.phase, away.phase.over) == (Phase.UNKNOWN, False)
    assert away.unknown_since is not None
    assert "iteration" in away.detail, "the run's own files still say how far it is"
    cluster.start_controller()
    back = until(run, Phase.RUNNING)
    assert (back.run_state.progress.iteration or 0) > (running.run_state.progress.iteration or 0)
    wait_until(lambda: cluster.run("squeue", "-h", "-o", "%T", check=False).stdout == "RUNNING\n", "the job", cluster)
