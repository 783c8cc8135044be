"""The process beside a rank: a log that grows, is cut short, never comes; ends the rank, and never outlives it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.contract import verdict
from launcher.contract.fabrics.verdict import Expectation, NodeView
from launcher.contract.process import start_ticks_of
from launcher.contract.records.ranks import ExceptionRecord
from launcher.job.network import follower, report, variables
from launcher.job.network.tail import NoFileError, Tail
from launcher.job.network.watch import Watch, own_log, prepare
from launcher.job.rank import Rank, read_rank
from launcher.job.record import End, write_end
from tests.job.ranks import ROOT, rank_environment
from tests.support.limits import seconds
from tests.support.rank_ends import leave, record_of

OLDEST = Path.home() / ".pyenv/versions/3.10.13/bin/python"
LOGS = Path(__file__).with_name("nccl_logs")
SETTINGS = {"policy": "require", "fabric": "efa", "nodes": 2, "ranks_per_node": 8, "nvlink_domain": False}

RANK = """
import json, os, signal, sys, time
sys.path.insert(0, {root!r})
from launcher.job.network import watch
from launcher.job.rank import read_rank
watching = watch.prepare(read_rank(os.environ), json.loads(sys.argv[1]))
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
watching.begin("gpu")
print(watching.process.pid, watching.log, flush=True)
time.sleep(120)
"""


def text(name: str) -> str:
    return (LOGS / f"{name}.log").read_text()


def until(true: Callable[[], Any], timeout_s: float = 30) -> None:
    end = time.monotonic() + seconds(timeout_s)
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)


def ignores(pid: int, number: signal.Signals) -> bool:
    """Whether a process ignores a signal: it has come as far as that."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigIgn:"))
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class Running:
    """A process that does with the network what a rank does, and sleeps; and its follower."""

    def __init__(self, directory: Path, how: str, settings: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        variables_of_rank = {**rank_environment(directory, 0, 16), **environ}
        self.rank = read_rank(variables_of_rank)
        self.log = directory / "rank.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RANK.format(root=str(ROOT)), json.dumps({**SETTINGS, **settings}), how],
                env=variables_of_rank,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        pid, path = self.process.stdout.readline().split()
        self.follower, self.nccl = int(pid), Path(path)

    @property
    def report(self) -> Mapping[str, Any]:
        return report.read(self.rank) or {}


@contextlib.contextmanager
def running(
    directory: Path,
    how: str = "meek",
    *,
    settings: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    found = Running(directory, how, settings or {}, environ or {})
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()
        assert found.process.stdout is not None
        found.process.stdout.close()
        until(lambda: gone(found.follower), 5)


def test_a_log_that_grows_slowly_is_read_to_its_verdict(tmp_path: Path) -> None:
    with running(tmp_path) as rank:
        assert rank.nccl == own_log(rank.rank)
        with rank.nccl.open("w") as log:
            for line in text("efa").splitlines(keepends=True):
                log.write(line[:20])
                log.flush()
                time.sleep(0.05)
                log.write(line[20:])
                log.flush()
        until(lambda: rank.report)
        until(lambda: gone(rank.follower))
        assert rank.process.poll() is None
        line = json.loads((rank.rank.paths.path / "timeline.jsonl").read_text())
    found = rank.report
    assert (found["verdict"], found["ends"], found["selected"]["nics"]) == ("good", False, 16)
    assert (line["event"], line["verdict"], line["selected"]["networks"]) == ("network", "good", ["Libfabric"])
    assert not rank.rank.paths.network_warning(0).exists()
    assert "network: rank 0: node " in rank.log.read_text()


@pytest.mark.parametrize("how", ["meek", "stubborn"])
def test_a_rank_ends_with_the_sentence_where_its_network_is_required(tmp_path: Path, how: str) -> None:
    with running(tmp_path, how) as rank:
        rank.nccl.write_text(text("efa_socket"))
        number = signal.SIGTERM if how == "meek" else signal.SIGKILL
        assert rank.process.wait(seconds(30)) == -number
    record = record_of(rank.rank.paths, 0)
    assert (record["outcome"], record["cause"], record["pid"]) == ("failed", "network", rank.process.pid)
    assert record["exception"]["type"] == "NetworkError"
    # A peer had noticed before: it is not the one to look at.
    peer = {**record, "rank": 1, "cause": "communication", "time": record["time"] - 5, "exception": None}
    leave(rank.rank.paths, 1, peer)
    result: Any = verdict.compose(rank.rank.paths, 2, 143, time.time())
    assert result["first_failing_rank"]["rank"] == 0
    assert result["first_failing_rank"]["cause"] == "network"
    assert result["reason"].startswith(f"rank 0: node {os.uname().nodename}: NCCL uses network Socket")
    assert "NCCL uses network Socket, and efa is expected: NCCL's plugin for EFA was not found" in result["reason"]
    assert result["reason"] in rank.log.read_text()


def test_where_it_is_not_required_the_rank_goes_on(tmp_path: Path) -> None:
    with running(tmp_path, settings={"policy": "warn"}) as rank:
        rank.nccl.write_text(text("efa_tcp"))
        until(lambda: gone(rank.follower))
        assert rank.process.poll() is None
    assert (rank.report["verdict"], rank.report["ends"]) == ("bad", False)
    assert "warning: network: rank 0: node " in rank.log.read_text()
    assert "provider is tcp" in rank.rank.paths.network_warning(0).read_text()
    assert not (rank.rank.paths.path / "ranks").exists()


def test_a_log_that_begins_anew_counts_alone(tmp_path: Path) -> None:
    with running(tmp_path) as rank:
        rank.nccl.write_text(text("efa_socket") + "more\n" * 1000)
        time.sleep(1.5)
        rank.nccl.write_text(text("efa"))
        until(lambda: gone(rank.follower))
        assert rank.process.poll() is None
    assert rank.report["verdict"] == "good"


def test_a_file_of_the_users_is_the_one_that_is_followed(tmp_path: Path) -> None:
    environ = {"NCCL_DEBUG_FILE": str(tmp_path / "mine.%h.%p"), "NCCL_DEBUG": "TRACE"}
    with running(tmp_path, environ=environ) as rank:
        host = os.uname().nodename.partition(".")[0]
        assert rank.nccl == tmp_path / f"mine.{host}.{rank.process.pid}"
        rank.nccl.write_text(text("efa"))
        until(lambda: rank.report)
    assert rank.report["verdict"] == "good"


@pytest.mark.parametrize("written", ["", "efa_socket"])
def test_the_follower_is_gone_seconds_after_its_rank(tmp_path: Path, written: str) -> None:
    with running(tmp_path) as rank:
        until(lambda: all(ignores(rank.follower, one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)))
        # All that Slurm sends to every process of a step.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(rank.follower, number)
        if written:
            rank.nccl.write_text(text(written))
        time.sleep(seconds(1))
        assert not gone(rank.follower)
        rank.process.kill()
        rank.process.wait()
        until(lambda: gone(rank.follower), 3)
    # What was known by then is left; the rank's end is explained elsewhere.
    assert rank.report.get("verdict") == ("bad" if written else None)
    assert not (rank.rank.paths.path / "ranks").exists()


@pytest.mark.parametrize("python", [sys.executable, str(OLDEST)])
def test_a_log_that_never_comes_leaves_the_network_unknown(tmp_path: Path, python: str) -> None:
    if not Path(python).exists():
        pytest.skip(f"there is no {python}")
    rank = read_rank(rank_environment(tmp_path, 0, 16))
    request = {"parent": os.getpid(), "ticks": start_ticks_of(os.getpid()), "log": "/nowhere/nccl.log"}
    done = subprocess.run(
        [python, "-S", "-E", follower.__file__, json.dumps({**request, "settings": SETTINGS, "timeout_s": 1})],
        env=rank_environment(tmp_path, 0, 16),
        capture_output=True,
        text=True,
        timeout=seconds(20),
        check=True,
    )
    found = report.read(rank)
    assert found is not None
    assert (found["verdict"], found["ends"]) == ("unknown", False)
    assert "1 s after the program has begun (/nowhere/nccl.log)" in found["sentence"]
    assert "warning: the network was not checked" in done.stderr


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NoFileError):
        Tail(tmp_path / "pipe").read()


def watching(directory: Path, **settings: Any) -> Watch:
    """The first rank of a node, whose follower is a process that does nothing."""
    rank = read_rank(rank_environment(directory, 0, 16))
    watch = prepare(rank, {**SETTINGS, **settings}, {})
    watch.log = own_log(rank)
    watch.process = subprocess.Popen(["sleep", "60"])
    return watch


OUT_OF_MEMORY: ExceptionRecord = {"type": "RuntimeError", "message": "out of memory", "where": None, "traceback": ""}
LOST = End(
    "failed",
    iteration=None,
    exception={"type": "DistBackendError", "message": "NCCL error", "where": "a.py:1 in b", "traceback": "Traceback"},
    cause="communication",
)


@pytest.mark.parametrize("policy", ["require", "warn"])
def test_a_rank_whose_nccl_found_no_network_says_why(tmp_path: Path, policy: str) -> None:
    watch = watching(tmp_path, policy=policy)
    own_log(watch.rank).write_text(text("efa_pinned"))
    end = watch.explain(LOST)
    assert end.cause == "network"
    assert end.exception is not None
    assert end.exception["traceback"] == "Traceback"
    assert "NCCL found no network: NCCL's plugin for EFA was not found" in end.exception["message"]
    assert watch.process is not None
    assert watch.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("log", "end"),
    [
        ("efa", LOST),
        ("efa_socket", End("finished", iteration=3)),
        ("efa_socket", End("failed", exception=OUT_OF_MEMORY, cause="program")),
        ("efa_socket", End("stopped", "requested", 3)),
    ],
)
def test_any_other_end_stays_what_it_is(tmp_path: Path, log: str, end: End) -> None:
    watch = watching(tmp_path)
    own_log(watch.rank).write_text(text(log))
    assert watch.explain(end) == end


def test_a_rank_that_the_follower_ends_while_it_saves_and_stops_has_failed(tmp_path: Path) -> None:
    watch = watching(tmp_path)
    following = follower.Following(own_log(watch.rank), watch.expected, NodeView())
    own_log(watch.rank).write_text(text("efa_socket"))
    following.look(0.0)
    content = report.write(watch.rank, following.verdict, following.selection, watch.expected, following.log, ends=True)
    write_end(watch.rank, report.failure(content), pid=1)
    end = watch.explain(End("stopped", "signal SIGTERM", 7))
    assert (end.outcome, end.cause, end.iteration, end.exit_status) == ("failed", "network", 7, 1)


def test_other_ranks_of_a_node_have_nccls_warnings_in_their_own_log(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    rank = Rank(1, 1, 16, 8, 0, "n1:1", tmp_path, "000")
    watch = prepare(rank, SETTINGS, environ)
    assert environ == {"NCCL_DEBUG": "WARN"}
    watch.begin("gpu", environ)
    assert watch.process is None and not rank.paths.network_record(1).exists()
    mine = {"NCCL_DEBUG": "VERSION"}
    prepare(rank, SETTINGS, mine)
    assert mine == {"NCCL_DEBUG": "VERSION"}
    rank.paths.log(1).parent.mkdir(parents=True)
    rank.paths.log(1).write_text(f"step 3\n{COMPLETION}\n{CONSEQUENCE}\n")
    end = watch.explain(LOST)
    assert end.exception is not None
    assert end.exception["message"].startswith("NCCL error\nNCCL warned of peer 10.0.0.7<41000> device mlx5_2: NET/IB")
    assert (end.cause, end.outcome) == ("communication", "failed")
    assert watch.explain(end) == end


COMPLETION = (
    "n1:7:9 [1] transport/net_ib.cc:1238 NCCL WARN NET/IB : Got completion from peer 10.0.0.7<41000> with status=12 "
    "opcode=0 len=0 vendor err 129 (Recv) hca mlx5_2"
)
CONSEQUENCE = "n1:7:9 [1] proxy.cc:1456 NCCL WARN [Service thread] Accept failed Resource temporarily unavailable"


def test_what_fails_in_the_middle_of_a_run_is_in_the_end_of_the_rank(tmp_path: Path) -> None:
    watch = watching(tmp_path)
    own_log(watch.rank).write_text(text("efa") + f"{COMPLETION}\n{CONSEQUENCE}\n")
    end = watch.explain(LOST)
    assert end.exception is not None
    assert "peer 10.0.0.7<41000> device mlx5_2" in end.exception["message"]
    (tmp_path / "other").mkdir()
    other = watching(tmp_path / "other")
    own_log(other.rank).write_text(text("efa") + f"{COMPLETION}\n")
    program = End("failed", exception=OUT_OF_MEMORY, cause="program")
    assert other.explain(program) == program


def test_a_good_verdict_waits_for_nccls_connections(tmp_path: Path) -> None:
    log = tmp_path / "nccl.log"
    lines = [line for line in text("infiniband").splitlines() if " via NET/" not in line]
    log.write_text("\n".join([*lines, ""]))
    expected = Expectation("require", "infiniband", 2, 8)
    following = follower.Following(log, expected, NodeView())
    assert not following.look(0.0)
    assert (following.verdict.word, following.verdict.provisional) == ("good", True)
    assert not following.look(follower.SETTLE_S + 1)
    assert following.look(follower.CONNECTIONS_S)
    late = follower.Following(log, expected, NodeView())
    late.look(0.0)
    with log.open("a") as more:
        more.write("dgx-01:921:1177 [0] NCCL INFO Channel 00/0 : 8[0] -> 0[0] [receive] via NET/IB/0\n")
    assert not late.look(10.0)
    assert late.look(10.0 + follower.SETTLE_S)
    assert late.verdict.word == "bad" and "do without GPUDirect RDMA" in late.verdict.what
    # A profile of nodes that cannot do it says so.
    able = Expectation("require", "infiniband", 2, 8, gdr=False)
    other = follower.Following(log, able, NodeView())
    other.look(0.0)
    assert (other.verdict.word, other.verdict.provisional) == ("good", False)


def test_a_run_goes_on_without_sharp_and_is_warned(tmp_path: Path) -> None:
    settings = {"fabric": "infiniband", "sharp": True, "policy": "require"}
    with running(tmp_path, settings=settings) as rank:
        rank.nccl.write_text(text("infiniband"))
        until(lambda: rank.report)
        until(lambda: gone(rank.follower))
        assert rank.process.poll() is None
    found = rank.report
    assert (found["verdict"], found["ends"]) == ("bad", False)
    assert "no plugin for it was loaded" in found["cause"]
    assert rank.rank.paths.network_warning(0).exists()


@pytest.mark.parametrize(
    ("device", "environ", "words"),
    [
        ("gpu", {"NCCL_DEBUG": "WARN"}, "NCCL_DEBUG=WARN is below INFO"),
        ("cpu", {}, "the ranks compute on CPU, without NCCL"),
    ],
)
def test_a_network_that_cannot_be_checked_is_said_to_be_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], device: str, environ: dict[str, str], words: str
) -> None:
    rank = read_rank(rank_environment(tmp_path, 0, 16))
    watch = prepare(rank, SETTINGS, environ)
    watch.begin(device, environ)
    assert watch.process is None
    assert words in capfd.readouterr().err
    assert watch.explain(LOST) == LOST
    assert variables.blind({"NCCL_DEBUG": "INFO"}) is None
