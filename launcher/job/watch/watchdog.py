"""The process that watches the ranks of a node for hangs: `python3 watchdog.py`, started by step.sh of the first one.

It belongs to the step and not to a rank: no signal to a rank and no loop in one stops it. It reads the counts that the
ranks keep in the node's memory (heartbeat.py) and ends when the last step.sh of its node has ended. Only when ranks are
silent for too long it writes to the run: their stacks, what torch's flight recorder has, and a record; then, at the
limit, it kills the node's ranks, and the verdict calls that a hang (contract/hangs.py). Standard library alone.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Optional

if __name__ == "__main__":
    # Run as a file: this directory's modules are reached through their package alone.
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from launcher.contract import hangs
from launcher.contract.files import read_object, write_json, write_text
from launcher.contract.paths import RunPaths
from launcher.contract.process import ProcessIdentity, is_alive, start_ticks_of, stat
from launcher.contract.records.nodes import CollectiveRecord, NodeHang, RankSight
from launcher.contract.records.request import HangLimits
from launcher.job.watch import telemetry
from launcher.job.watch.heartbeat import ALL_STACKS_SIGNAL, DIRECTORY, STACK_SIGNAL, Counts, Slot

_OWNER = "watchdog.json"
_ANSWER_S = 3.0
"""How long ranks get to write stacks and flight recorder."""
_PY_SPY_S = 10.0
_OTHER_NODES_S = 5.0
"""How long the end of a hang waits for the records of the other nodes."""
_LATE_SHELL_S = 60.0
"""How long a node waits for tasks that have not begun, once all others have ended."""
_UNNAMED_S = 24 * 3600.0
_STACK_LINES = 8
_RUNNING = ("R", "S", "D")

Stage = Literal["busy", "suspected", "ended"]


class Answers(NamedTuple):
    """Files of one rank in the node's memory, held open: the directory is removed once training runs."""

    ask: int
    stack: int
    recorder: int


class Gap(NamedTuple):
    """A time in which this process did not run, and the steps of one rank that it may have stretched."""

    seconds: float
    first: int
    last: int
    """Numbers of steps, from 1: those that were not complete before, up to the one that was not complete after."""


class WatchedRank:
    """One rank of the node, as the watchdog follows it."""

    def __init__(self, directory: Path, local_rank: int, rank: int) -> None:
        self.directory = directory
        self.local_rank = local_rank
        self.rank = rank
        self.shell: Optional[int] = None
        self.shell_ticks: Optional[int] = None
        self.slot: Optional[Slot] = None
        self.changed_at = 0.0
        self.gaps: list[Gap] = []
        self.answers: Optional[Answers] = None

    def find_shell(self) -> bool:
        """Read which process runs this rank's step.sh; return whether it was found only now."""
        if self.shell is not None:
            return False
        try:
            pid, rank = (self.directory / f"shell-{self.local_rank}").read_text().split()
        except (OSError, ValueError):
            return False
        self.shell, self.rank = int(pid), int(rank)
        self.shell_ticks = start_ticks_of(self.shell)
        return True

    def runs(self) -> bool:
        """Return whether its step.sh runs."""
        return self.shell is not None and self.shell_ticks is not None and is_alive(self.shell, self.shell_ticks)

    def read(self, counts: Counts, now: float, gap_s: float = 0.0) -> None:
        """Note what it has counted, and when that last changed; `gap_s` since the last look nothing could be seen."""
        slot = counts.read(self.local_rank)
        if self.slot is None or slot.changes != self.slot.changes or slot.pid != self.slot.pid:
            self.changed_at = now
        if self.slot is None or slot.pid != self.slot.pid:
            self.gaps = []
        elif gap_s:
            self.gaps.append(Gap(gap_s, self.slot.steps + 1, slot.steps + 1))
        self.gaps = [gap for gap in self.gaps if gap.last > slot.steps - hangs.RECENT]
        self.slot = slot
        if slot.rank is not None and self.answers is None:
            self._open_answers()

    def view(self, now: float) -> hangs.RankView:
        """Return what is judged.

        Of the steps that a gap may have stretched the slowest one counts for nothing, if it took as long as the gap:
        the whole node may have stood still in it.
        """
        phase: hangs.Phase = "not started"
        steps, slowest = 0, 0.0
        if self.slot is not None and self.slot.rank is not None:
            ended = self.slot.phase == "ended" or not is_alive(self.slot.pid, self.slot.start_ticks)
            phase, steps = "ended" if ended else self.slot.phase, self.slot.steps
            slowest = max(self._undisturbed(steps, self.slot.recent_s), default=0.0)
        elif self.shell is not None and not self.runs():
            phase = "ended"
        return hangs.RankView(self.rank, phase, steps, now - self.changed_at, slowest)

    def _undisturbed(self, steps: int, recent_s: Sequence[float]) -> list[float]:
        """Return the durations of recent steps without one for each gap; that of step N is at (N - 1) % RECENT."""
        numbers = range(steps - len(recent_s) + 1, steps + 1)
        durations = {number: recent_s[(number - 1) % hangs.RECENT] for number in numbers}
        for gap in sorted(self.gaps, reverse=True):
            stretched = [number for number in durations if gap.first <= number <= gap.last]
            slowest = max(stretched, key=durations.__getitem__, default=None)
            if slowest is not None and durations[slowest] >= gap.seconds:
                del durations[slowest]
        return [*durations.values()]

    @property
    def pid(self) -> Optional[int]:
        """Return the process id of its program, while that runs."""
        slot = self.slot
        joined = slot is not None and slot.rank is not None
        return slot.pid if slot is not None and joined and is_alive(slot.pid, slot.start_ticks) else None

    def _open_answers(self) -> None:
        names = (f"ask-{self.local_rank}", f"stack-{self.local_rank}", f"recorder-{self.local_rank}")
        opened: list[int] = []
        try:
            for name in names:
                opened.append(os.open(self.directory / name, os.O_RDWR | os.O_NONBLOCK))
        except OSError:
            for each in opened:
                os.close(each)
            return
        self.answers = Answers(*opened)

    # ---- asking

    def ask(self) -> int:
        """Ask for stacks and flight recorder; return where the stacks will begin in their file."""
        if self.answers is None:
            return 0
        begin = self.stack_size()
        # Its file is gone with the rank, or the disk is full: the stacks by signal do not need it.
        with contextlib.suppress(OSError):
            os.ftruncate(self.answers.recorder, 0)
            os.write(self.answers.ask, b"1")
        self.send(STACK_SIGNAL)
        return begin

    def send(self, number: int) -> None:
        """Send a signal that makes it write stacks. Without the handler the signal would end the program."""
        pid = self.pid
        if pid is not None and catches(pid, number):
            signal_main_thread(pid, number)

    def has_answered(self, begin: int) -> bool:
        """Return whether stacks and flight recorder are there, or cannot come."""
        if self.answers is None or self.pid is None or state_of(self.pid) in ("T", "t"):
            return True
        return self.stack_size() > begin and os.fstat(self.answers.recorder).st_size > 0

    def stack_size(self) -> int:
        """Return the size of the file of its stacks."""
        return os.fstat(self.answers.stack).st_size if self.answers is not None else 0

    def stacks(self, begin: int) -> str:
        """Return the stacks that it has written since `begin`."""
        if self.answers is None:
            return ""
        size = self.stack_size() - begin
        return os.pread(self.answers.stack, max(0, min(size, 1 << 20)), begin).decode(errors="replace")

    def collectives(self) -> list[CollectiveRecord]:
        """Return the current collectives of its flight recorder; none where it has not answered."""
        if self.answers is None:
            return []
        try:
            found = json.loads(os.pread(self.answers.recorder, 1 << 20, 0))
        except (OSError, ValueError):
            return []
        return found if isinstance(found, list) else []


class AwakeClock:
    """Seconds during which this process ran. While the whole job is suspended it stands still, as the ranks do."""

    def __init__(self, poll_s: float) -> None:
        self._poll_s = poll_s
        self._most = 5 * poll_s + 1.0
        self._last = time.monotonic()
        self.now = 0.0
        self.gap_s = 0.0
        """How long it did not run before the last tick, at least; 0 where it did."""

    def tick(self, *, trusted: bool = False) -> float:
        """Return the time; `trusted` where this process knows that it was not suspended since the last tick."""
        now = time.monotonic()
        passed, self._last = now - self._last, now
        self.gap_s = 0.0
        if passed > self._most and not trusted:
            self.gap_s = passed - self._poll_s
            passed = self._most
        self.now += passed
        return self.now


class Watchdog:
    """The ranks of one node, and what was written about them."""

    def __init__(self, environ: Mapping[str, str], limits: HangLimits) -> None:
        self.directory = Path(environ[DIRECTORY])
        run = RunPaths(Path(environ["LAUNCHER_RUN_DIR"]))
        self.attempt = run.attempt_paths(environ["LAUNCHER_ATTEMPT"])
        self.limits = limits
        self.node = int(environ["NODE_RANK"])
        size, world = int(environ["LOCAL_WORLD_SIZE"]), int(environ["WORLD_SIZE"])
        self.nodes = -(-world // size)
        first = int(environ["RANK"]) - int(environ["LOCAL_RANK"])
        self.ranks = [WatchedRank(self.directory, local, first + local) for local in range(size)]
        self.counts = Counts(self.directory, size)
        self.counts.watchdog = os.getpid()
        self.poll_s = min(1.0, limits["hang_limit_s"] / 20)
        self.clock = AwakeClock(self.poll_s)
        self.counted = counts_steps(run.entrypoint)
        """Whether the program is known to count: another one is watched from its first count on."""
        self.answer_s = min(_ANSWER_S, max(0.5, limits["hang_limit_s"] / 3))
        self.written: Optional[Stage] = None
        self.ended_them = False
        self._removed = False
        self._alone_since: Optional[float] = None

    def run(self) -> None:
        """Watch until every step.sh of the node has ended."""
        poll = select.poll()
        while not self._is_over():
            for rank in self.ranks:
                if rank.find_shell() and rank.shell is not None:
                    _watch_end(poll, rank.shell)
            for descriptor, _ in poll.poll(self.poll_s * 1000):
                poll.unregister(descriptor)
                os.close(descriptor)
            self._look(self.clock.tick())
        self.remove_directory()

    def _is_over(self) -> bool:
        if any(rank.runs() for rank in self.ranks):
            self._alone_since = None
            return False
        if all(rank.shell is not None for rank in self.ranks):
            return True
        self._alone_since = time.monotonic() if self._alone_since is None else self._alone_since
        # A rank that has ended makes srun end a step whose other tasks never began.
        return time.monotonic() - self._alone_since > _LATE_SHELL_S

    def _look(self, now: float) -> None:
        for rank in self.ranks:
            rank.read(self.counts, now, self.clock.gap_s)
        self.counted = self.counted or any(rank.slot and rank.slot.rank is not None for rank in self.ranks)
        if self.ended_them:
            self.kill()  # what was only being started then
        if not self.counted or self.ended_them:
            return
        if any(self.attempt.unwatched(rank.rank).exists() for rank in self._late(now)):
            return
        views = [rank.view(now) for rank in self.ranks]
        if all(rank.slot is not None and rank.slot.steps > 0 and rank.answers is not None for rank in self.ranks):
            self.remove_directory()
        judgement = hangs.judge(views, self.limits)
        if judgement.stage == "quiet":
            self._quiet(views)
        elif judgement.stage == "suspected":
            if self.written != "suspected":
                self.write("suspected", views, judgement.limit_s)
        elif self._wait_for_others(views, judgement):
            self.end(views, judgement)

    def _late(self, now: float) -> list[WatchedRank]:
        """Return the ranks that have not begun to count after half the time that they may take."""
        due = now > self.limits["start_limit_s"] / 2
        return [rank for rank in self.ranks if due and rank.runs() and rank.slot is not None and rank.slot.rank is None]

    def _quiet(self, views: Sequence[hangs.RankView]) -> None:
        if self.nodes > 1 and hangs.is_busy_elsewhere(views, self.limits):
            if self.written != "busy":
                self.write("busy", views, max(hangs.limit_of(view, self.limits) for view in views))
        elif self.written is not None:
            self.written = None
            # Where the record stays, it still says `busy`, and no other node ends the run for that.
            with contextlib.suppress(OSError):
                self.attempt.hang_record(self.node).unlink()

    def _wait_for_others(self, views: Sequence[hangs.RankView], judgement: hangs.Judgement) -> bool:
        """Return whether the ranks are to be ended now: other nodes had time for their records, and none is busy."""
        if self.written != "suspected":
            self.write("suspected", views, judgement.limit_s)
        if self.nodes == 1:
            return True
        end = time.monotonic() + _OTHER_NODES_S
        while len(found := records(self.attempt.stacks)) < self.nodes and time.monotonic() < end:
            time.sleep(0.2)
        return not any(one.get("stage") == "busy" for one in found)

    # ---- writing

    def write(self, stage: Stage, views: Sequence[hangs.RankView], limit_s: float) -> NodeHang:
        """Write the stacks of the node's ranks and its record. A full disk does not stop the watch."""
        self.written = stage
        texts, notes = self._ask()
        sights = [self._sight(rank, view, texts[rank.rank]) for rank, view in zip(self.ranks, views, strict=True)]
        record: NodeHang = {
            "version": 1,
            "time": time.time(),
            "node": self.node,
            "host": socket.gethostname(),
            "stage": stage,
            "limit_s": limit_s,
            "silent_s": max((view.silent_s for view in views if view.phase != "ended"), default=0.0),
            "ranks": sights,
            "notes": notes,
        }
        self._save(record, texts)
        # The time that this took was not spent asleep.
        self.clock.tick(trusted=True)
        return record

    def _save(self, record: NodeHang, texts: Mapping[int, str]) -> None:
        try:
            self.attempt.stacks.mkdir(exist_ok=True)
            write_text(self.attempt.stacks_of_node(self.node), "\n".join(texts[rank] for rank in sorted(texts)))
            write_json(self.attempt.hang_record(self.node), record)
        except OSError as error:
            say(f"the record of a hang cannot be written: {error}")

    def _sight(self, rank: WatchedRank, view: hangs.RankView, text: str) -> RankSight:
        pid = rank.pid
        return {
            "rank": rank.rank,
            "pid": pid,
            "phase": view.phase,
            "steps": view.steps,
            "silent_s": round(view.silent_s, 1),
            "state": state_of(pid) if pid is not None else None,
            "stack": main_thread(text),
            "collectives": rank.collectives(),
        }

    def _ask(self) -> tuple[dict[int, str], list[str]]:
        """Return the stacks of each rank as text, and why something is missing."""
        begins = {rank.rank: rank.ask() for rank in self.ranks}
        spies = {rank.rank: start_py_spy(rank.pid) for rank in self.ranks if rank.pid is not None}
        end = time.monotonic() + self.answer_s
        while time.monotonic() < end and not all(rank.has_answered(begins[rank.rank]) for rank in self.ranks):
            time.sleep(0.05)
        texts, notes = {}, []
        end = time.monotonic() + _PY_SPY_S
        for rank in self.ranks:
            pid = rank.pid
            texts[rank.rank] = f"==== rank {rank.rank}, process {pid}, state {state_of(pid) if pid else 'gone'}\n"
            texts[rank.rank] += rank.stacks(begins[rank.rank])
            spy = spies.get(rank.rank)
            if spy is not None:
                found, error = finish_py_spy(spy, end)
                texts[rank.rank] += f"---- py-spy\n{found or error}\n"
                notes += [] if found else [f"rank {rank.rank}: py-spy: {error}"]
        return texts, notes

    # ---- ending

    def end(self, views: Sequence[hangs.RankView], judgement: hangs.Judgement) -> None:
        """Record the hang, say so in the log, and kill the ranks of this node; srun ends those of other nodes."""
        self.ended_them = True
        record = self.write("ended", views, judgement.limit_s)
        self._add_all_threads(record)
        self._add_stacks_of_stopped(record)
        sights = [one for other in records(self.attempt.stacks) for one in other["ranks"]] or record["ranks"]
        silent_s = max(view.silent_s for view in views if view.rank in judgement.ranks)
        say(f"hang: {hangs.sentence(hangs.culprits(sights), sights, silent_s)}; this node's ranks are ended")
        self.kill()

    def _add_all_threads(self, record: NodeHang) -> None:
        """Append the stacks of all threads of the ranks that are not stopped; they are killed next."""
        running = [rank for rank, sight in zip(self.ranks, record["ranks"], strict=True) if sight["state"] in _RUNNING]
        begins = {rank.rank: rank.stack_size() for rank in running}
        for rank in running:
            rank.send(ALL_STACKS_SIGNAL)
        time.sleep(min(0.5, self.answer_s))
        self._append({rank.rank: rank.stacks(begins[rank.rank]) for rank in running}, "all threads")

    def _append(self, texts: Mapping[int, str], title: str) -> None:
        # The disk may be full: the record in JSON has the most important stack of each rank.
        with contextlib.suppress(OSError), self.attempt.stacks_of_node(self.node).open("a") as file:
            file.writelines(f"==== rank {rank}, {title}\n{text}" for rank, text in texts.items() if text)

    def _add_stacks_of_stopped(self, record: NodeHang) -> None:
        """Let stopped ranks run on for a moment before they are killed: they write the stacks that they were asked for.

        The others are stopped first, so that no rank trains on: what they have said was recorded before.
        """
        stopped = [
            rank for rank, sight in zip(self.ranks, record["ranks"], strict=True) if sight["state"] in ("T", "t")
        ]
        if not stopped:
            return
        begins = {rank.rank: rank.stack_size() for rank in stopped}
        others = [rank for rank in self.ranks if rank not in stopped]
        for rank, number in [(rank, signal.SIGSTOP) for rank in others] + [(rank, signal.SIGCONT) for rank in stopped]:
            if (pid := rank.pid) is not None:
                # It has ended meanwhile.
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        end = time.monotonic() + self.answer_s
        while time.monotonic() < end and any(rank.stack_size() == begins[rank.rank] for rank in stopped):
            time.sleep(0.02)
        time.sleep(0.1)  # a stack is written line by line
        texts = {rank.rank: rank.stacks(begins[rank.rank]) for rank in stopped}
        for sight in record["ranks"]:
            sight["stack"] = main_thread(texts[sight["rank"]]) if texts.get(sight["rank"]) else sight["stack"]
        if any(texts.values()):
            self._append(texts, "continued")
            # The record that was written before stays.
            with contextlib.suppress(OSError):
                write_json(self.attempt.hang_record(self.node), record)

    def kill(self) -> None:
        """Kill the ranks' programs and all that runs below each step.sh of this node, except this process."""
        children = children_of_all()
        shells = {rank.shell for rank in self.ranks if rank.runs() and rank.shell is not None}
        below = descendants([*shells], children, without=os.getpid())
        programs = [rank.pid for rank in self.ranks if rank.pid is not None]
        for pid in {*programs, *descendants(programs, children), *below}:
            # It has ended meanwhile.
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def remove_directory(self) -> None:
        """Remove the node's directory: what is open stays usable, and nothing is left however the step ends."""
        if not self._removed:
            self._removed = True
            shutil.rmtree(self.directory, ignore_errors=True)


# ---- processes


def state_of(pid: int) -> Optional[str]:
    """Return the kernel's letter for the state of a process; None where there is none."""
    fields = stat(pid)
    return fields[0] if fields else None


def catches(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal. Source: proc_pid_status(5), SigCgt."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    except (OSError, ValueError):
        pass  # it has ended: nothing is sent to it
    return False


def signal_main_thread(pid: int, number: int) -> None:
    """Send a signal to the main thread of a process.

    Any thread may take a signal for the whole process, above all one that is continued after a stop.
    """
    import ctypes  # only where something hangs

    tgkill = getattr(ctypes.CDLL(None), "tgkill", None)  # glibc 2.30
    if tgkill is not None:
        tgkill(pid, pid, int(number))
        return
    # It has ended meanwhile.
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def children_of_all() -> dict[int, list[int]]:
    """Return the children of each process, as /proc shows them now."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        if (fields := stat(int(path.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(path.name))
    return children


def descendants(pids: Sequence[int], children: Mapping[int, Sequence[int]], without: int = 0) -> list[int]:
    """Return all processes below `pids`, but neither the process `without` nor those below it."""
    found: list[int] = []
    last = list(pids)
    while last:
        last = [child for parent in last for child in children.get(parent, ()) if child != without]
        found += last
    return found


def _watch_end(poll: "select.poll", pid: int) -> None:
    """Let `poll` return when a process ends, where the kernel can (5.3); else the next look notices."""
    # An older kernel.
    with contextlib.suppress(OSError, AttributeError):
        poll.register(os.pidfd_open(pid), select.POLLIN)


# ---- stacks


def start_py_spy(pid: int) -> "Optional[subprocess.Popen[str]]":
    """Start py-spy on a process, without stopping it; None where there is no py-spy."""
    program = shutil.which("py-spy") or shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if program is None:
        return None
    try:
        command = [program, "dump", "--nonblocking", "--pid", str(pid)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    except OSError:
        return None


def finish_py_spy(process: "subprocess.Popen[str]", end: float) -> tuple[str, str]:
    """Return what py-spy has printed, and its error where it failed or took until `end`."""
    try:
        out, error = process.communicate(timeout=max(0.1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "", "it did not end in time"
    failed = process.returncode != 0
    return ("" if failed else out), " ".join(error.split())[:300] if failed else ""


def main_thread(text: str) -> list[str]:
    """Return the innermost frames of the main thread, `function FILE:LINE`, of what faulthandler has written.

    That is one block for each answer; of several the last one with a frame counts.
    """
    block: list[str] = []
    begins = False
    for line in text.partition("---- py-spy")[0].splitlines():
        if line.startswith(("Stack (", "Thread 0x", "Current thread 0x")):
            begins = True
        elif line.startswith('  File "'):
            block, begins = ([] if begins else block), False
            name, _, rest = line[8:].rpartition('", line ')
            number, _, function = rest.partition(" in ")
            block.append(f"{function} {name}:{number}")
    return block[:_STACK_LINES]


# ---- files


def records(stacks: Path) -> list[dict[str, Any]]:
    """Return the records of all nodes that have written one."""
    found = [read_object(path) for path in sorted(stacks.glob("node-*.json"))]
    return [one for one in found if one is not None and isinstance(one.get("ranks"), list)]


def counts_steps(entrypoint: Path) -> bool:
    """Return whether the program of the ranks is known to count its steps, by its own text."""
    try:
        return b"launcher.job" in entrypoint.read_bytes()
    except OSError:
        return False


def sweep(directory: Path) -> None:
    """Remove directories beside this one that killed watchdogs of this machine have left."""
    prefix = f"launcher-{os.geteuid()}-"
    for other in directory.parent.glob(f"{prefix}*"):
        # It belongs to another watchdog that removes it now, or cannot be removed: the next one tries again.
        with contextlib.suppress(OSError):
            if other == directory or other.is_symlink() or other.stat().st_uid != os.geteuid():
                continue
            owner = ProcessIdentity.from_dict(read_object(other / _OWNER) or {})
            # A watchdog names itself within seconds: without a name it was killed before that.
            if owner.has_ended() if owner else time.time() - other.stat().st_mtime > _UNNAMED_S:
                shutil.rmtree(other, ignore_errors=True)


def say(text: str) -> None:
    """Write a line into the log of the node's first rank."""
    print(f"launcher: {text}", file=sys.stderr, flush=True)


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Watch the node's ranks until they have ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        # These are meant for the ranks, which may still save for a long time.
        signal.signal(number, signal.SIG_IGN)
    request = read_object(RunPaths(Path(environ["LAUNCHER_RUN_DIR"])).argv_file) or {}
    limits = (request.get("options") or {}).get("hang_limits")
    if not isinstance(limits, dict):
        say("the ranks are not watched for hangs: argv.json has no limits")
        return 0
    try:
        watchdog = Watchdog(environ, limits)  # type: ignore[arg-type]
        write_json(watchdog.directory / _OWNER, ProcessIdentity.of_this_process().to_dict())
        sweep(watchdog.directory)
    except OSError as error:
        say(f"the ranks are not watched for hangs: {error}")
        return 0
    sampler = telemetry.start(watchdog.attempt, request["options"], environ)
    watchdog.run()
    if sampler is not None:
        sampler.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
