"""Cancelling runs on this machine; batch jobs are cancelled in test_on_slurm.py."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import OutsideError, RequestError, SlurmError
from launcher._util.processes import members_for
from launcher._util.shell import Result
from launcher.contract.process import boot_id
from launcher.job.next_attempt import ended_by
from launcher.rundir import RunDirectory
from launcher.watch.cancel import cancel_run, copied_from
from launcher.watch.run_state import read_run_state
from tests.support.limits import seconds
from tests.support.recorder import Recorder
from tests.watch.run_dirs import BEGIN, iteration, make_attempt, make_run, submitted

TRAPS = "import signal, sys, time; signal.signal(15, {}); open(sys.argv[1], 'w').close(); time.sleep(600)"


class Ranks:
    """A process group that carries a run's path on its command lines, as step.sh does."""

    def __init__(self, path: Path, handler: str) -> None:
        ready = path.parent / "ready"
        argv = [sys.executable, "-I", "-S", "-c", TRAPS.format(handler), str(ready), str(path / "step.sh")]
        self.process = subprocess.Popen(argv, start_new_session=True)
        deadline = time.monotonic() + seconds(20)
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    def event(self, **more: Any) -> dict[str, Any]:
        ticks = int(Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        base = {
            "event": "launched",
            "backend": "local",
            "attempt": "000",
            "pid": self.process.pid,
            "start_ticks": ticks,
        }
        return {**base, "group": self.process.pid, "host": socket.gethostname(), **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "small" / "1"


@pytest.fixture
def ranks(path: Path, request: pytest.FixtureRequest) -> Iterator[Ranks]:
    path.parent.mkdir()
    started = Ranks(path, getattr(request, "param", "lambda *_: sys.exit(0)"))
    yield started
    started.process.kill()
    started.process.wait()


def local_run(path: Path, event: dict[str, Any]) -> RunDirectory:
    run = make_run(path, event, backend="local")
    make_attempt(run, metrics=(iteration(1),))
    return run


def reap(ranks: Ranks) -> Callable[[float], None]:
    """What a launcher does while it waits: without it the ended process would stay a zombie."""

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        ranks.process.poll()

    return sleep


def test_a_run_of_this_machine_is_ended(path: Path, ranks: Ranks) -> None:
    run = local_run(path, ranks.event())
    assert members_for(path, ranks.process.pid, None) == [ranks.process.pid]
    assert cancel_run(run, Recorder(), sleep=reap(ranks)) == "the run's processes have ended"
    assert ranks.process.wait(seconds(5)) == 0
    assert [event["event"] for event in run.journal.read()] == ["launched", "cancelled"]
    assert cancel_run(run, Recorder()) == "the run has already ended: cancelled"


@pytest.mark.parametrize("ranks", ["signal.SIG_IGN"], indirect=True)
def test_ranks_that_do_not_listen_are_killed(path: Path, ranks: Ranks) -> None:
    words = cancel_run(local_run(path, ranks.event()), Recorder(), grace_s=0.5, sleep=reap(ranks))
    assert "killed" in words
    assert ranks.process.wait(seconds(5)) == -9


def test_a_group_of_somebody_else_is_left_alone(path: Path, ranks: Ranks) -> None:
    # The number of the group is used again: its processes are not this run's.
    assert members_for(path.parent / "other" / "1", ranks.process.pid, None) == []
    run = local_run(path.parent / "other" / "1", ranks.event())
    assert cancel_run(run, Recorder()) == "no process of the run is left"
    assert ranks.process.poll() is None


def test_a_group_whose_number_is_used_again_is_left_alone_whatever_its_command_lines_name(
    path: Path, ranks: Ranks
) -> None:
    event = ranks.event()
    gone = {**event, "pid": 2**22 - 1, "group_start_ticks": event["start_ticks"] - 1}
    assert members_for(path, ranks.process.pid, gone["group_start_ticks"]) == []
    run = local_run(path, gone)
    assert cancel_run(run, Recorder()) == "the run has already ended: lost"
    assert ranks.process.poll() is None


def test_what_outlives_its_launcher_is_ended_unless_it_is_of_another_boot(path: Path, ranks: Ranks) -> None:
    event = ranks.event()
    event = {**event, "pid": 2**22 - 1, "group_start_ticks": event["start_ticks"]}
    run = local_run(path, {**event, "boot_id": "another"})
    assert cancel_run(run, Recorder()) == "the run has already ended: lost"
    run.journal.write("launched", **{key: value for key, value in event.items() if key != "event"}, boot_id=boot_id())
    state = read_run_state(run)
    assert state.start is not None and state.start.orphans == (ranks.process.pid,)
    assert cancel_run(run, Recorder(), sleep=reap(ranks)) == "the run's processes have ended"


def test_with_save_the_ranks_are_asked(path: Path, ranks: Ranks) -> None:
    run = local_run(path, ranks.event())
    assert cancel_run(run, Recorder(), save=True) == "the ranks will save and stop after this iteration"
    assert run.attempt(0).stop.exists()
    assert ranks.process.poll() is None
    assert run.journal.read()[-1]["event"] == "stop_requested"


def test_not_from_here(path: Path) -> None:
    run = local_run(path, {"event": "launched", "attempt": "000", "pid": os.getpid(), "host": "elsewhere", "group": 1})
    with pytest.raises(RequestError, match="started on elsewhere") as caught:
        cancel_run(run, Recorder())
    assert "launcher cancel" in (caught.value.hint or "")


def test_a_waiting_job_has_nothing_to_save(path: Path) -> None:
    run = make_run(path, *submitted())
    waiting = Result(("squeue",), 0, f"12|12|PENDING|{int(BEGIN)}|N/A|1||Priority|/x/sbatch.sh|/x|token-1\n", "")
    shell = Recorder({"squeue": waiting, "scancel": Result(("scancel",), 0, "", "")})
    with pytest.raises(RequestError, match="nothing to save"):
        cancel_run(run, shell, save=True)
    assert cancel_run(run, shell) == "job 12 is cancelled"
    assert shell.asked[-1] == ("scancel", "12")


def test_silence_is_an_error_not_a_success(path: Path) -> None:
    run = make_run(path, *submitted())
    words = "Unable to contact slurm controller (connect failure)"
    shell = Recorder({"squeue": Result(("squeue",), 1, "", words), "scancel": Result(("scancel",), 1, "", words)})
    with pytest.raises(SlurmError, match="Unable to contact"):
        cancel_run(run, shell)


OWN = f"12|12|RUNNING|{int(BEGIN)}|N/A|1||None|/x/sbatch.sh token-1|/x|token-1\n"
BEHIND = "13|13|PENDING|N/A|N/A|1||Dependency|/x/sbatch.sh token-2|/x|token-2\n"
HIDDEN = "13|13|PENDING|N/A|N/A|1||Dependency|||\n"
NO_ANSWER = Result(("squeue",), 1, "", "Unable to contact slurm controller (connect failure)")


def queued_behind(path: Path, *outcome: dict[str, Any]) -> RunDirectory:
    """A run whose job 12 trains, and behind which another one was queued."""
    intent = {"event": "submit_intent", "token": "token-2", "after": "12"}
    run = make_run(path, *submitted(), intent, *outcome)
    make_attempt(run, metrics=(iteration(1),))
    return run


def slurm(behind: Result | str, *, found: str = "") -> Recorder:
    """Slurm that shows job 12, and `behind` where it is asked for job 13, an error for that alone.

    It finds the submissions `found`.
    """

    def squeue(argv: Sequence[str]) -> Result:
        if "--me" in argv:
            return Result(("squeue",), 0, found, "")
        asked = argv[-1].removeprefix("--jobs=").split(",")
        if "12" in asked:
            return Result(("squeue",), 0, OWN + (behind if isinstance(behind, str) and "13" in asked else ""), "")
        return behind if isinstance(behind, Result) else Result(("squeue",), 0, behind, "")

    empty = Result(("sacct",), 0, "", "")
    return Recorder({"squeue": squeue, "sacct": empty, "scancel": Result(("scancel",), 0, "", "")})


NUMBERED = {"event": "submitted", "token": "token-2", "backend": "batch", "job": "13"}


@pytest.mark.parametrize(
    ("outcome", "found"),
    [((NUMBERED,), ""), (({"event": "submit_unknown", "token": "token-2", "error": "?"},), "13|token-2|x|y\n")],
    ids=["numbered", "found by its token"],
)
def test_jobs_behind_are_ended_first(path: Path, outcome: tuple[dict[str, Any], ...], found: str) -> None:
    shell = slurm(BEHIND, found=found)
    assert cancel_run(queued_behind(path, *outcome), shell) == "job 12 is cancelled, and behind it 13"
    assert shell.asked[-1] == ("scancel", "13", "12")


@pytest.mark.parametrize("behind", [NO_ANSWER, HIDDEN], ids=["no answer", "not shown whose it is"])
def test_nothing_is_ended_while_a_job_behind_may_begin_for_it(path: Path, behind: Result | str) -> None:
    run = queued_behind(path, NUMBERED)
    shell = slurm(behind)
    with pytest.raises((SlurmError, OutsideError), match="nothing was ended") as caught:
        cancel_run(run, shell)
    assert "--force" in (caught.value.hint or "")
    assert "scancel" not in {asked[0] for asked in shell.asked}
    assert [event["event"] for event in run.journal.read()][-1] == "submitted"
    assert cancel_run(run, shell, force=True) == "job 12 is cancelled, and behind it 13"


def test_a_cancel_that_slurm_refuses_does_not_count(path: Path) -> None:
    run = make_run(path, *submitted())
    make_attempt(run, metrics=(iteration(1),))
    shell = slurm("")
    shell.answers = {**shell.answers, "scancel": Result(("scancel",), 1, "", "scancel: error: Access denied")}
    with pytest.raises(SlurmError, match="Access denied"):
        cancel_run(run, shell)
    assert [event["event"] for event in run.journal.read()][-2:] == ["cancelled", "cancel_failed"]
    assert read_run_state(run).cancelled is False
    assert ended_by(run, run.attempt(0), killed=False) is None
    cancel_run(run, slurm(""))
    assert read_run_state(run).cancelled is True
    assert ended_by(run, run.attempt(0), killed=False) == "cancelled"


def test_a_copy_of_a_run_does_not_end_the_job_of_the_original(tmp_path: Path) -> None:
    """`cp -r` of a running run has its journal and its token. One that was moved or is reached by a link is itself."""
    path = tmp_path / "small/1"
    make_run(path, *submitted())
    plan = {**json.loads((path / "plan.json").read_text()), "run_dir": str(path), "token": "token-1"}
    (path / "plan.json").write_text(json.dumps(plan))
    copy, link = tmp_path / "small/copy", tmp_path / "small/link"
    shutil.copytree(path, copy)
    link.symlink_to(path)
    shell = Recorder()
    with pytest.raises(OutsideError, match="is a copy of"):
        cancel_run(RunDirectory(copy), shell)
    assert shell.asked == []
    assert copied_from(RunDirectory(link)) is None
    path.rename(tmp_path / "small/moved")
    assert copied_from(RunDirectory(tmp_path / "small/moved")) is None
    assert copied_from(RunDirectory(copy)) is None, "it is all that is left of the run"
