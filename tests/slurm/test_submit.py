"""Submitting: exactly once, and a refusal says what to do."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from launcher._util.errors import RequestError, SlurmError
from launcher._util.shell import LocalShell, Result
from launcher.slurm.submit import Submission, SubmissionUnknownError, find_submission, parse_submission, submit
from tests.support.recorder import Recorder
from tests.support.slurm.virtual_cluster import VirtualCluster

TIMED_OUT = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
REFUSED = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n"
SILENT = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"


class Clock:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def said(stdout: str = "", status: int = 0, stderr: str = "") -> Callable[[Sequence[str]], Result]:
    return lambda argv: Result(tuple(argv), status, stdout, stderr)


def send(shell: Recorder) -> Submission:
    clock = Clock()
    return submit(Path("/run/sbatch.sh"), shell, token="token-1", clock=clock, sleep=clock.sleep)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12\n", Submission("12")),
        ("12;alpha\n", Submission("12", "alpha")),
        ("Welcome to Alpha\n\n*** quota: 80% ***\n12;alpha\n", Submission("12", "alpha")),
        ("12\ncharged 3.5 units to project 77\n", Submission("12")),
        ("", None),
        ("error 12\n", None),
    ],
)
def test_the_job_is_read_from_whatever_a_site_prints(text: str, expected: Submission | None) -> None:
    assert parse_submission(text) == expected


def test_one_command_when_all_is_well() -> None:
    shell = Recorder({"sbatch": said("12\n")})
    assert send(shell) == Submission("12")
    assert shell.asked == [("sbatch", "--parsable", "/run/sbatch.sh", "token-1")]


@pytest.mark.parametrize("first", [said("", 1, TIMED_OUT), said("a site's message and no id\n"), said("", 1)])
def test_a_job_without_an_answer_is_found_by_its_token(first: Callable[[Sequence[str]], Result]) -> None:
    shell = Recorder({"sbatch": first, "squeue": said("11|token-10|other\n12|token-1|run|x\n")})
    assert send(shell) == Submission("12", recovered=True)


def test_a_job_without_an_answer_may_appear_late() -> None:
    replies = iter(["", "", "12|token-1|run\n"])
    shell = Recorder(
        {
            "sbatch": said("", 1, TIMED_OUT),
            "squeue": lambda argv: Result(tuple(argv), 0, next(replies), ""),
            "sacct": said("", 1, "Slurm accounting storage is disabled"),
            "scontrol": said("MessageTimeout          = 10 sec\n"),
        }
    )
    assert send(shell) == Submission("12", recovered=True)


def test_a_job_that_stays_absent_was_not_accepted() -> None:
    shell = Recorder({"sbatch": said("", 1, TIMED_OUT), "squeue": said(), "scontrol": said("MessageTimeout = 4 sec\n")})
    with pytest.raises(SlurmError, match="Socket timed out") as caught:
        send(shell)
    assert not isinstance(caught.value, SubmissionUnknownError)
    assert sum(argv[0] == "squeue" for argv in shell.asked) > 4, (
        "absent only once a message cannot be under way any more"
    )


@pytest.mark.parametrize(("sbatch", "squeue"), [(TIMED_OUT, SILENT), ("", ""), (TIMED_OUT, "")])
def test_a_job_that_cannot_be_looked_for_is_unknown(sbatch: str, squeue: str) -> None:
    """Also where the commands fail without a word, as those of 26.05 sometimes do."""
    with pytest.raises(SubmissionUnknownError, match="it may exist") as caught:
        send(Recorder({"sbatch": said("", 1, sbatch), "squeue": said("", 1, squeue)}))
    assert "grep token-1" in (caught.value.hint or "")
    assert caught.value.exit_status == 3


def test_a_controller_that_is_not_there_got_nothing() -> None:
    shell = Recorder({"sbatch": said("", 1, REFUSED)})
    with pytest.raises(SlurmError, match="Unable to contact"):
        send(shell)
    assert len(shell.asked) == 1
    with pytest.raises(SlurmError, match="not found"):
        send(Recorder())


def test_a_job_that_has_ended_is_found_in_accounting() -> None:
    shell = Recorder({"squeue": said(), "sacct": said("12|token-1|run\n")})
    assert find_submission("token-1", shell) == Submission("12", recovered=True)


# ---- on a real cluster


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "job with spaces.sh"
    path.write_text("#!/bin/bash\n#SBATCH --output=/dev/null\ntrue\n")
    return path


@pytest.mark.parametrize(
    ("options", "words", "hint"),
    [
        (["--partition=nope"], "invalid partition specified: nope", "sinfo -s"),
        (["--partition=short", "--time=60"], "time limit is invalid", "--time"),
        (["--time=soon"], "Invalid --time", "D-HH:MM:SS"),
        (["--nodes=5"], "Node count specification invalid", "--nodes"),
        (["--nodes=9999"], "More processors requested", "partition"),
        (["--gpus-per-node=9"], "node configuration is not available", "sinfo"),
        (["--gres=tpu:1"], "generic resource", "--unset-sbatch gres"),
        (["--mem=1T"], "Memory specification", "sinfo|--unset-sbatch mem"),
        (["--nodelist=n9"], "Invalid node name", "sinfo -N"),
        (["--reservation=x"], "reservation", "scontrol show reservation"),
        (["--constraint=x"], "feature", "%f"),
        (["--licenses=x:1"], "license", "licenses"),
        (["--no-such-option"], "unrecognized option", "--unset-sbatch"),
    ],
)
def test_refusals_are_slurms_own_words_and_a_way_out(
    slurm_cluster: VirtualCluster,
    script: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
    hint: str,
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.conf))
    with pytest.raises(RequestError) as caught:
        submit(script, LocalShell(), token="t", options=options)
    assert words in caught.value.message
    assert caught.value.exit_status == 2
    assert any(each in (caught.value.hint or "") for each in hint.split("|")), caught.value.hint


def test_a_job_of_a_real_cluster(slurm_cluster: VirtualCluster, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.conf))
    name = "a|b $(c) 'd'"
    sent = submit(script, LocalShell(), token="run-7f3a", options=["--comment=run-7f3a", f"--job-name={name}"])
    assert slurm_cluster.wait(sent.job, "COMPLETED") == "COMPLETED"
    assert find_submission("run-7f3a", LocalShell()) == Submission(sent.job, recovered=True), "also after it has ended"
    assert find_submission("run-0000", LocalShell()) is None


def test_a_frozen_controller_gets_one_job(
    new_cluster: Callable[..., VirtualCluster], script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = new_cluster(nodes=1, message_timeout_s=2)
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    cluster.pause_controller()
    # Long enough for sbatch to give up, which it does with an error.
    wake = threading.Timer(4, cluster.resume_controller)
    wake.start()
    begin = time.monotonic()
    sent = submit(script, LocalShell(), token="run-1", options=["--comment=run-1"], patience_s=30)
    wake.join()
    assert time.monotonic() - begin > 2
    assert sent.recovered
    cluster.wait(sent.job, "COMPLETED")
    assert cluster.run("squeue", "--states=all", "-h", "-o", "%i %k").stdout.splitlines() == [f"{sent.job} run-1"]


def test_a_dead_controller_gets_nothing(
    new_cluster: Callable[..., VirtualCluster], script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = new_cluster(nodes=1, message_timeout_s=1)
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    cluster.kill_controller()
    with pytest.raises(SlurmError, match="Unable to contact slurm controller"):
        submit(script, LocalShell(), token="run-2", patience_s=1)
