"""What sbatch.sh does about the next attempt: its functions, alone; the commands of Slurm only note their call."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launcher.contract.files import JsonLines
from launcher.scripts.render import scripts
from tests.support.building import plan

SCRIPT = scripts(plan("batch", request={"keep_going": True}))["sbatch.sh"]
FUNCTIONS = "\n".join(
    re.findall(r"^(?:\w+\(\) \{.*?^\}.*?|never_arrived=.*?|unanswered=.*?)$", SCRIPT, re.MULTILINE | re.DOTALL)
)
ENDING = SCRIPT[SCRIPT.rindex("word=${word##") : SCRIPT.rindex("case $word in")]
START = re.search(r"^if \[\[ \$nonce != [^\n]* && was_cancelled; then.*?^fi$", SCRIPT, re.MULTILINE | re.DOTALL)
STUBS = """
scontrol() {
    [[ $1 != --verbose ]] || { echo "last_update_time=$NOW, records=1"; return; }
    [[ $1 == --oneliner ]] || { echo "scontrol $*" >>calls; return; }
    echo "$SHOWN"
    [[ -n $SHOWN ]]
}
sbatch() { echo "sbatch ${*: -1}" >>calls; [[ -z $SAID ]] || echo "$SAID"; }
"""
RUNNING = "JobId=12 JobState=RUNNING Restarts=0 Requeue=1 "
ENDED = "JobId=12 JobState=CANCELLED Restarts=0 Requeue=1 "

EARLY = re.search(
    r"^if \[\[ \$\{before_nonce-\} == \"\$nonce\" \]\].*?^fi\nif [^\n]*next\.json.*?^fi$",
    SCRIPT,
    re.MULTILINE | re.DOTALL,
)
assert START is not None
assert EARLY is not None


class Job:
    """A job of a run that keeps going, in its directory."""

    def __init__(self, path: Path) -> None:
        self.path, self.journal = path, JsonLines(path / "journal.jsonl")
        (path / "attempts").mkdir()
        self.write("submit_intent", token="me")

    def write(self, event: str, **values: Any) -> None:
        self.journal.append({"time": 1.0, "event": event, **values})

    def attempt(self, number: int, *, verdict: bool, by: str = "me") -> None:
        directory = self.path / f"attempts/{number:03d}"
        directory.mkdir()
        (directory / "start").write_text(f"{by} 12 1 0\n")
        (directory / "successor").write_text("next\n--comment=next\n")
        if verdict:
            (directory / "result.json").write_text("{}")

    def run(self, program: str, **values: str) -> str:
        """Run the program after the functions; return the calls of commands that change jobs."""
        (self.path / "calls").unlink(missing_ok=True)
        words = {"SHOWN": RUNNING, "SAID": "", "NOW": "Unknown", **values}
        given = "".join(f"{name}={shlex.quote(value)}\n" for name, value in words.items())
        known = "SLURM_JOB_ID=12 this_job=12 nonce=me here= lease=lease mine= run_dir=. attempt_dir=attempts/000 "
        state = "begun=$(date +%s) begun_up=$(cut -d. -f1 /proc/uptime)\n"
        state += "over=0 clock_known=0 ended_by='' terminated=0 may_requeue=0 stop_s=1 half_s=1\n"
        text = f"set -o pipefail\n{FUNCTIONS}\nrelease() {{ :; }}\n{STUBS}{known}{state}{given}{program}"
        done = subprocess.run(
            ["bash", "-uc", text], cwd=self.path, capture_output=True, text=True, timeout=30, check=False
        )
        assert "unbound" not in done.stderr, done.stderr
        calls = self.path / "calls"
        return calls.read_text().strip() if calls.exists() else ""

    def events(self) -> list[str]:
        lines = (self.path / "journal.jsonl").read_text().splitlines()
        return [json.loads(line)["event"] for line in lines]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_a_cancel_after_the_verdict_ends_the_run(job: Job) -> None:
    job.attempt(0, verdict=True)
    follow = "LAUNCHER_ATTEMPT=000 number=0\n" + ENDING
    assert job.run(follow, word="requeue:0") == "scontrol requeue 12"
    assert job.run(follow, word="requeue:0", terminated="1") == "scontrol requeue 12", "somebody else's SIGTERM"
    assert job.run(follow, word="requeue:0", terminated="1", SHOWN=ENDED) == ""
    assert job.run(follow, word="requeue:0", terminated="1", SHOWN="") == "", "the controller does not answer"
    job.write("cancelled", job="12")
    assert job.run(follow, word="requeue:0") == ""
    assert job.run(follow, word="successor:0") == ""
    job.write("cancel_failed", job="12")
    assert job.run(follow, word="successor:0", SAID="13\n") == "sbatch next"


@pytest.mark.parametrize(
    ("word", "calls"),
    [
        ("requeue:0", "goes on"),
        ("successor:0", "sbatch next"),
        ("finished", ""),
        ("failed", ""),
        ("", "goes on"),
    ],
)
def test_an_attempt_without_a_verdict_is_judged_at_the_next_start(job: Job, word: str, calls: str) -> None:
    """The verdict step of the new start says what comes next; of two attempts in a row without a word nothing does."""
    assert EARLY is not None
    job.attempt(0, verdict=False)
    given = f"srun() {{ echo {word}; }}\nSLURMD_NODENAME=n1 number=1 before=000 before_nonce=me\n"
    assert job.run(f"{given}{EARLY[0]}\necho goes on >>calls", SAID="13\n") == calls
    if word == "":
        job.attempt(1, verdict=False)
        given = given.replace("number=1 before=000", "number=2 before=001")
        assert job.run(f"{given}fail() {{ exit 3; }}\n{EARLY[0]}\necho goes on >>calls") == ""


@pytest.mark.parametrize(
    ("action", "queued", "calls"),
    [("end", False, ""), ("requeue", False, "goes on"), ("successor", True, ""), ("successor", False, "goes on")],
)
def test_a_requeue_by_slurm_does_not_undo_a_decision(job: Job, action: str, queued: bool, calls: str) -> None:
    """The script has decided while Slurm requeued its job, as for the lost node of another rank."""
    assert EARLY is not None
    job.attempt(0, verdict=True)
    (job.path / "attempts/000/next.json").write_text(json.dumps({"kind": "machine", "action": action}))
    if queued:
        job.write("submitted", token="next", job="13")
    given = "SLURMD_NODENAME=n1 number=1 before=000 before_nonce=me\n"
    assert job.run(f"{given}{EARLY[0]}\necho goes on >>calls") == calls


@pytest.mark.parametrize(
    ("cluster", "number", "here", "owner"),
    [
        ('"a"', "12", "a", "this job"),
        ("null", "12", "a", "this job"),
        ('"b"', "12", "a", "another"),
        ('"a"', "13", "a", "another"),
        ('"b"', f"{2 << 26 | 12}", "a", "this job"),
    ],
    ids=["requeued", "without a name", "of another cluster", "another number", "moved within a federation"],
)
def test_a_lease_is_that_of_this_job_by_cluster_and_number(
    job: Job, cluster: str, number: str, here: str, owner: str
) -> None:
    """One submission has led to several jobs, which clusters may have numbered alike: the first keeps the run."""
    (job.path / "lease").write_text(
        f'{{"nonce": "me", "cluster": {cluster}, "job_id": "{number}", "attempt": "000"}}\n'
    )
    mine = {"this_job": number, "SLURM_JOB_ID": number} if number != "13" else {}
    look = 'read_lease lease; owner_has_ended && echo "this job" >>calls || echo another >>calls'
    assert job.run(look, SLURM_CLUSTER_NAME=here, **mine) == owner


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(("ahead_s", "earliest", "latest"), [(0, 3495, 3496), (-600, 3500, 3501), (600, 2895, 2896)])
def test_the_time_that_is_left_needs_no_clock_that_agrees_with_the_controllers(
    job: Job, ahead_s: int, earliest: int, latest: int, asked: bool
) -> None:
    """The script began 5 s after the job of an hour, and runs for 100 s. A clock that is set meanwhile changes nothing.

    The controller says when it has answered. Where it does not, a clock that is behind lets no end be missed; with one
    that is ahead the ranks stop too early at worst.
    """
    start = 1_700_000_000
    shown = f"{RUNNING}StartTime={start} EndTime={start + 3600} "
    said = str(start + 105) if asked else "Unknown"
    if asked:
        earliest, latest = 3495, 3496
    given = f"begun={start + 5 + ahead_s} begun_up=$(($(cut -d. -f1 /proc/uptime) - 100))\n"
    for now in (start, start + 10**6):
        date = f"date() {{ echo {now}; }}\n"
        left_s = int(job.run(f"{given}{date}look; echo $left_s >>calls", SHOWN=shown, NOW=said))
        assert earliest - 1 <= left_s <= latest


def test_without_the_lease_nothing_is_done(job: Job) -> None:
    """The script of a node that Slurm has lost: the job has begun again elsewhere."""
    job.attempt(0, verdict=True)
    (job.path / "lease").write_text('{"version": 1, "nonce": "me", "job_id": "12", "attempt": "001"}\n')
    for word in ("requeue:0", "successor:0"):
        assert job.run("LAUNCHER_ATTEMPT=000 number=0\n" + ENDING, word=word, SAID="13\n") == "", word


def test_only_a_cancel_after_the_jobs_own_start_counts(job: Job) -> None:
    asked = "was_cancelled && echo yes >>calls"
    for event, token, expected in (
        ("submitted", "me", ""),
        ("cancelled", None, "yes"),
        ("submit_intent", "other", "yes"),
        ("requeue", "me", ""),
        ("cancelled", None, "yes"),
        ("cancelled", None, "yes"),
        ("cancel_failed", None, "yes"),
        ("cancel_failed", None, ""),
        ("cancel_failed", None, ""),
        ("cancelled", None, "yes"),
        ("launched", None, ""),
    ):
        job.write(event, **({"token": token} if token else {}))
        assert job.run(asked) == expected, event
    (job.path / "journal.jsonl").unlink()
    assert job.run(asked) == ""


def test_a_cancel_of_which_slurm_knows_nothing_is_why_the_attempt_ends(job: Job) -> None:
    """In an allocation, which goes on: `launcher cancel` has signalled the script and srun themselves."""
    job.attempt(0, verdict=False)
    given = "notice=notice.json stop=stop signalled=signalled patience='' woken=0 step=(srun) srun=$$ watcher=$$\n"
    job.run(f"{given}on_signal", terminated="1")
    assert not (job.path / "notice.json").exists()
    job.write("cancelled")
    job.run(f"{given}on_signal", terminated="1")
    assert json.loads((job.path / "notice.json").read_text())["why"] == "cancelled"
    assert (job.path / "signalled").exists()
    assert not (job.path / "stop").exists()


def test_a_cancel_while_a_successor_is_submitted(job: Job) -> None:
    job.attempt(0, verdict=True)
    job.write("cancelled", job="12")
    assert job.run("submit_successor 000", SAID="13\n") == ""
    assert job.events()[-2:] == ["submit_intent", "submit_refused"]
    assert json.loads(job.path.joinpath("journal.jsonl").read_text().splitlines()[-2])["after"] == "12"


def test_a_job_that_waited_behind_a_cancelled_one_ends(job: Job) -> None:
    assert START is not None
    start = START[0] + "\necho goes on >>calls"
    assert job.run(start, before="000") == "goes on"
    job.write("cancelled", job="11")
    assert job.run(start, before="000") == ""


@pytest.mark.parametrize(
    ("said", "event"),
    [
        ("sbatch: error: Batch job submission failed: Invalid partition name specified", "submit_refused"),
        ("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation", "submit_unknown"),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "submit_refused",
        ),
        ("sbatch: error: Slurm temporarily unable to accept job\nsbatch: error: it failed: x", "submit_unknown"),
        ("", "submit_unknown"),
        ("slurmstepd: something", "submit_unknown"),
    ],
)
def test_only_a_definite_no_is_a_refusal(job: Job, said: str, event: str) -> None:
    """As the launcher itself judges (slurm/submit.py)."""
    job.attempt(0, verdict=True)
    assert job.run("submit_successor 000 && echo queued >>calls", SAID=said) == "sbatch next"
    assert job.events()[-2:] == ["submit_intent", event]


def test_two_attempts_in_a_row_without_a_verdict_end_the_run(job: Job) -> None:
    ending = "LAUNCHER_ATTEMPT=001 number=1\n" + ENDING
    job.attempt(0, verdict=False)
    job.attempt(1, verdict=False)
    assert job.run("LAUNCHER_ATTEMPT=000 number=0\n" + ENDING, word="") == "scontrol requeue 12"
    assert job.run(ending, word="") == ""
    (job.path / "attempts/000/result.json").write_text("{}")
    assert job.run(ending, word="") == "scontrol requeue 12"
    (job.path / "attempts/000/result.json").unlink()
    (job.path / "attempts/000/start").write_text("other 11 1 0\n")
    assert job.run(ending, word="") == "scontrol requeue 12", "that of an earlier submission"
