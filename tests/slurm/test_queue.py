"""States of jobs: Slurm's words read right, one question for all jobs, and silence never taken for an end."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import pytest

from launcher._util.shell import LocalShell, Result
from launcher.slurm.poller import Poller
from launcher.slurm.queue import Job, State, ask_jobs, parse_exit, parse_sacct, parse_squeue, parse_state, parse_time
from tests.support.recorder import Recorder
from tests.support.slurm.virtual_cluster import VirtualCluster

NOW = 1_800_000_000.0
SILENT = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
NO_ACCOUNTING = "Slurm accounting storage is disabled\n"

# As Slurm 22.05.8 printed it (SLURM_TIME_FORMAT=%s).
QUEUE = """\
2|2|PENDING|1826763307|1826763607|1795227306||Priority
3_0|3|PENDING|1826763307|NONE|1795227306||None
3_1|7|COMPLETED|1795227400|1795227401|1795227306|n1|None
4|4|PENDING|N/A|N/A|1795227306||JobHeldUser
1|1|RUNNING|1795227307|1826763307|1795227306|n[1-4]|None
8|8|FAILED|1795227306|1795227306|1795227306||BadConstraints
"""


def said(text: str = "", status: int = 0, error: str = "") -> Result:
    return Result((), status, text, error)


def answering(queue: Result, accounting: Result | None = None) -> Recorder:
    # A real result carries its command.
    def with_argv(result: Result) -> Callable[[Sequence[str]], Result]:
        return lambda argv: Result(tuple(argv), result.status, result.stdout, result.stderr)

    return Recorder({"squeue": with_argv(queue), "sacct": with_argv(accounting or said("", 1, NO_ACCOUNTING))})


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("RUNNING", State.RUNNING),
        ("CANCELLED by 1000", State.CANCELLED),
        ("CANCELLED+", State.CANCELLED),
        ("OUT_OF_MEMORY", State.OUT_OF_MEMORY),
        (" COMPLETED ", State.COMPLETED),
        ("REQUEUE_HOLD", State.REQUEUE_HOLD),
        ("", State.UNKNOWN),
        ("A_STATE_OF_TOMORROW", State.UNKNOWN),
    ],
)
def test_states_are_read(text: str, state: State) -> None:
    assert parse_state(text) is state


@pytest.mark.parametrize("state", list(State))
def test_every_state_is_waiting_or_ended_or_neither_never_both(state: State) -> None:
    assert not (state.terminal and state.waiting)


@pytest.mark.parametrize(
    "state", ["SUSPENDED", "CONFIGURING", "REQUEUE_HOLD", "REQUEUED", "COMPLETING", "STOPPED", "UNKNOWN"]
)
def test_what_other_tools_take_for_an_end_is_none(state: str) -> None:
    assert not State(state).terminal


@pytest.mark.parametrize(("text", "status"), [("0:0", 0), ("3:0", 3), ("0:9", 137), ("1:15", 143), ("x", None)])
def test_exit_codes_are_as_a_shell_gives_them(text: str, status: int | None) -> None:
    assert parse_exit(text) == status


@pytest.mark.parametrize("text", ["N/A", "Unknown", "None", "NONE", "", "0"])
def test_times_that_are_none(text: str) -> None:
    assert parse_time(text) is None


def test_squeue_is_read() -> None:
    jobs = parse_squeue(QUEUE, NOW)
    running = Job("1", State.RUNNING, submitted=1795227306.0, start=1795227307.0, nodes="n[1-4]")
    assert jobs["1"] == dataclasses.replace(running, limit_end=1826763307.0)
    assert (jobs["4"].reason, jobs["4"].start) == ("JobHeldUser", None)
    assert (jobs["3_1"].terminal, jobs["3_1"].end, jobs["7"]) == (True, 1795227401.0, jobs["3_1"])
    # Many tasks of an array wait under one number.
    assert jobs["3"].id == "3_0"
    assert (jobs["8"].state, jobs["8"].reason) == (State.FAILED, "BadConstraints")


def test_noise_between_the_lines_is_passed_over() -> None:
    assert parse_squeue("CLUSTER: alpha\n\nslurm_load_jobs: warning\n" + QUEUE, NOW) == parse_squeue(QUEUE, NOW)


# As sacct 22.05.8 printed it (SLURM_TIME_FORMAT=%s, slurmdbd), and one that never started.
ACCOUNTING = """\
1|1|FAILED|3:0|1795230011|1795230011|1795230010|n1
2|2|COMPLETED|0:0|1795230011|1795230011|1795230010|n1
3|3|CANCELLED by 0|0:0|1795230011|1795230014|1795230010|n1
4|4|FAILED|0:9|1795230011|1795230011|1795230010|n1
5_0|6|COMPLETED|0:0|1795230011|1795230011|1795230010|n1
5_1|5|FAILED|1:0|1795230011|1795230011|1795230010|n1
7|7|CANCELLED by 0|0:0|Unknown|1795230014|1795230010|None assigned
"""


def test_sacct_is_read() -> None:
    jobs = parse_sacct(ACCOUNTING, NOW)
    ends = {name: (job.state.value, job.exit_status) for name, job in jobs.items()}
    assert ends["1"] == ("FAILED", 3)
    assert ends["2"] == ("COMPLETED", 0)
    assert ends["3"] == ("CANCELLED", 0)
    assert ends["4"] == ("FAILED", 137)
    assert (ends["5_0"], ends["5_1"], ends["6"]) == (("COMPLETED", 0), ("FAILED", 1), ("COMPLETED", 0))
    assert all(job.terminal and job.source == "sacct" for job in jobs.values())
    assert (jobs["3"].start, jobs["3"].end, jobs["3"].nodes) == (1795230011.0, 1795230014.0, "n1")
    assert (jobs["7"].start, jobs["7"].nodes) == (None, None)


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL"])
@pytest.mark.parametrize(("ago", "final"), [(5, False), (59, False), (61, True)])
def test_a_job_that_may_come_back_has_ended_only_a_minute_later(state: str, ago: int, final: bool) -> None:
    end = int(NOW) - ago
    assert parse_squeue(f"9|9|{state}|{end - 100}|{end}|{end - 200}|n1|None\n", NOW)["9"].terminal is final
    assert parse_sacct(f"9|9|{state}|0:0|{end - 100}|{end}|{end - 200}|n1\n", NOW)["9"].terminal is final


def test_one_squeue_for_all_and_one_sacct_for_the_rest() -> None:
    shell = answering(said(QUEUE), said("99|99|COMPLETED|0:0|1|2|1|n1\n98|98|TIMEOUT|0:0|1|2|1|n2\n"))
    answer = ask_jobs(["1", "2", "98", "99", "3_0", "1"], shell, clock=lambda: NOW)
    assert [argv[0] for argv in shell.asked] == ["squeue", "sacct"]
    assert shell.asked[0][-1] == "--jobs=1,2,3_0,98,99"
    assert shell.asked[1][-1] == "--jobs=98,99"
    assert {name: job.state.value for name, job in answer.jobs.items()} == {
        "1": "RUNNING",
        "2": "PENDING",
        "3_0": "PENDING",
        "98": "TIMEOUT",
        "99": "COMPLETED",
    }
    assert answer.unreachable is None


def test_what_the_queue_knows_is_not_asked_of_accounting() -> None:
    shell = answering(said(QUEUE))
    ask_jobs(["1", "2"], shell)
    assert [argv[0] for argv in shell.asked] == ["squeue"]
    assert ask_jobs([], shell).jobs == {}
    assert len(shell.asked) == 1


def test_ten_thousand_jobs_fit_on_command_lines() -> None:
    shell = answering(said(), said())
    ask_jobs([str(10_000_000 + number) for number in range(10_000)], shell)
    assert len(shell.asked) == 10
    assert max(len(argv[-1]) for argv in shell.asked) < 131_072  # MAX_ARG_STRLEN


@pytest.mark.parametrize("queue", [said(), said("", 1, "slurm_load_jobs error: Invalid job id specified\n")])
@pytest.mark.parametrize(
    "accounting", [said(), said("", 1, NO_ACCOUNTING), said("", 1, "sacct: error: slurm_persist_conn_open: x")]
)
def test_an_unknown_job_is_forgotten_not_failed(queue: Result, accounting: Result) -> None:
    answer = ask_jobs(["5"], answering(queue, accounting))
    assert (answer.jobs["5"].state, answer.jobs["5"].terminal) == (State.FORGOTTEN, True)
    reason = answer.jobs["5"].reason
    assert (reason is None) == (accounting.status == 0)
    assert accounting.status == 0 or "accounting does not answer: " in str(reason)


@pytest.mark.parametrize(
    "words",
    [
        SILENT,
        "slurm_load_jobs error: Socket timed out on send/recv operation",
        "slurm_load_jobs error: Zero Bytes were transmitted or received",
        "squeue: error: If munged is up, restart with --num-threads=10\nsqueue: error: Munge encode failed: x",
        "squeue: fatal: Could not establish a configuration source",
        "slurm_load_jobs error: something that we have never seen",
    ],
)
def test_silence_is_unknown_and_accounting_is_not_asked(words: str) -> None:
    shell = answering(said("", 1, words), said("5|5|FAILED|1:0|1|2|1|n1\n"))
    answer = ask_jobs(["5"], shell, clock=lambda: NOW)
    assert (answer.jobs["5"].state, answer.jobs["5"].terminal, answer.asked_at) == (State.UNKNOWN, False, NOW)
    assert answer.unreachable
    assert len(shell.asked) == 1


def test_a_machine_without_slurm_knows_nothing() -> None:
    answer = ask_jobs(["5"], Recorder())
    assert answer.jobs["5"].state is State.UNKNOWN
    assert "not found" in (answer.unreachable or "")


def test_questions_become_rare_while_nothing_changes_and_silence_is_timed() -> None:
    clock = [0.0]
    replies = [said(QUEUE)] * 5 + [said("", 1, SILENT)] * 3 + [said(QUEUE)]
    times: list[float] = []

    def squeue(argv: Sequence[str]) -> Result:
        times.append(clock[0])
        reply = replies[min(len(times), len(replies)) - 1]
        return Result(tuple(argv), reply.status, reply.stdout, reply.stderr)

    poller = Poller(("1",), Recorder({"squeue": squeue}), clock=lambda: clock[0])
    silent: dict[int, float | None] = {}
    while len(times) < 9:
        poller.poll()
        silent[len(times)] = poller.unknown_since
        clock[0] += 1
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[0] == 2
    assert pauses[:8] == sorted(pauses[:8])
    assert max(pauses) <= 60
    assert [silent[asked] for asked in range(1, 10)] == [None] * 5 + [times[5]] * 3 + [None]
    assert poller.answer is not None
    assert poller.answer.jobs["1"].state is State.RUNNING


# ---- on a real cluster


def states(cluster: VirtualCluster, *ids: str) -> dict[str, Job]:
    answer = ask_jobs(ids, LocalShell())
    assert answer.unreachable is None
    return dict(answer.jobs)


@pytest.fixture
def here(slurm_cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch) -> VirtualCluster:
    """The shared cluster, with this process's commands pointed at it, and a user who likes his own formats."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.conf))
    for name, value in {"SQUEUE_FORMAT": "%j", "SQUEUE_STATES": "PD", "SLURM_TIME_FORMAT": "relative"}.items():
        monkeypatch.setenv(name, value)
    return slurm_cluster


def test_jobs_of_a_real_cluster(here: VirtualCluster) -> None:
    good, bad, long = here.submit("true"), here.submit("exit 3"), here.submit("sleep 600", "--job-name=a|b")
    waiting, held = here.submit("true", "-N4", "--exclusive"), here.submit("true", "--hold")
    gone = here.submit("sleep 600")
    here.wait(gone, "RUNNING")
    here.run("scancel", gone)
    for job in (good, bad, gone):
        here.wait(job, "COMPLETED", "FAILED", "CANCELLED")
    jobs = states(here, good, bad, long, waiting, held, gone, "4000000")
    seen = {name: (job.state.value, job.terminal, job.reason) for name, job in jobs.items()}
    assert seen[good] == ("COMPLETED", True, None)
    assert seen[bad] == ("FAILED", True, "NonZeroExitCode")
    assert seen[long] == ("RUNNING", False, None)
    assert (seen[waiting][0], seen[waiting][1]) == ("PENDING", False)
    assert seen[held] == ("PENDING", False, "JobHeldUser")
    assert seen[gone][:2] == ("CANCELLED", True)
    assert seen["4000000"][:2] == ("FORGOTTEN", True)
    assert jobs[long].nodes in here.options.names
    assert jobs[long].start is not None
    assert states(here, "4000001")["4000001"].state is State.FORGOTTEN


def test_an_array_of_a_real_cluster(here: VirtualCluster) -> None:
    job = here.submit('exit "$SLURM_ARRAY_TASK_ID"', "--array=0-2")
    names = [f"{job}_{task}" for task in range(3)]
    for name in names:
        here.wait(name, "COMPLETED", "FAILED")
    assert [states(here, *names)[name].state.value for name in names] == ["COMPLETED", "FAILED", "FAILED"]


def test_a_requeued_job_has_not_ended(here: VirtualCluster) -> None:
    job = here.submit("sleep 600", "--requeue")
    here.wait(job, "RUNNING")
    here.run("scontrol", "requeue", job)
    seen = states(here, job)[job]
    assert not seen.terminal
    assert here.wait(job, "PENDING", "RUNNING")


def test_a_controller_that_is_frozen_or_dead_is_unknown(
    new_cluster: Callable[..., VirtualCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = new_cluster(nodes=1, message_timeout_s=1)
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    job = cluster.submit("sleep 600")
    cluster.wait(job, "RUNNING")
    cluster.pause_controller()
    frozen = ask_jobs([job], LocalShell())
    assert (frozen.jobs[job].state, "Socket timed out" in (frozen.unreachable or "")) == (State.UNKNOWN, True)
    cluster.resume_controller()
    assert ask_jobs([job], LocalShell()).jobs[job].state is State.RUNNING
    cluster.kill_controller()
    dead = ask_jobs([job], LocalShell())
    assert (dead.jobs[job].state, dead.jobs[job].terminal) == (State.UNKNOWN, False)
    assert dead.unreachable
