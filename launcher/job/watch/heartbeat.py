"""The steps that the ranks of a node count, in memory that they share with the node's watchdog.

    heartbeat = join(os.environ)        # in each rank, before torch is imported
    heartbeat.enter("training step")    # a phase begins (contract/hangs.py)
    heartbeat.step_done()               # a step was completed

`LAUNCHER_HEARTBEATS` names a directory in the node's memory, which step.sh makes; without it nothing is counted. A
count costs a few stores into a mapped file. Nothing is written to a shared file system, except when the watchdog asks
for the flight recorder.
"""

import contextlib
import faulthandler
import importlib.util
import json
import mmap
import os
import re
import signal
import struct
import sys
import threading
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple, Optional

from ...contract import flight_recorder
from ...contract.hangs import PHASES, RECENT, Phase, current_collectives
from ...contract.paths import FLIGHT_RECORDER, AttemptPaths, RunPaths
from ...contract.process import start_ticks_of
from ...contract.records.nodes import CollectiveRecord

DIRECTORY = "LAUNCHER_HEARTBEATS"

STACK_SIGNAL = signal.SIGRTMAX - 4
"""Makes a rank write the stack of its main thread. A real-time signal: libraries and recipes use the named ones."""

ALL_STACKS_SIGNAL = signal.SIGRTMAX - 5
"""Makes a rank write the stacks of all its threads. A thread that runs meanwhile can make that crash the process (seen
with Python 3.12), so this is for a rank that is about to be killed."""

_HEADER, _SLOT, _RING_AT = 64, 1024, 96
_WATCHDOG = struct.Struct("<I")
_RANK = struct.Struct("<IIQIIQQ")
"""Process id, rank + 1 (0: no rank has joined), start of the process in ticks, phase, unused, steps, changes."""
_PHASE_AT, _STEPS_AT = 16, 24
_PHASE = struct.Struct("<I")
_COUNTS = struct.Struct("<QQ")
_SECONDS = struct.Struct("<d")

_PR_SET_PTRACER = 0x59616D61  # linux/prctl.h

_FIRST_STEP = PHASES.index("first step")
_NEW_NAMES_SINCE = (2, 11)  # the release that was read is 2.13: there the old names are deprecated
_FLIGHT_RECORDER_ENTRIES = "2000"


class Slot(NamedTuple):
    """What one rank has counted."""

    pid: int
    rank: Optional[int]
    """None where no rank has joined."""
    start_ticks: int
    phase: Phase
    steps: int
    changes: int
    """Increases with each step and each phase."""
    recent_s: tuple[float, ...]
    """The durations of the last 100 steps, in any order."""


class Counts:
    """The shared memory of a node: a header, and a slot for each of its ranks. Raises OSError."""

    def __init__(self, directory: Path, ranks: int) -> None:
        descriptor = os.open(directory / "counts", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            size = _HEADER + ranks * _SLOT
            # Not sparse: a store into a page that a full file system cannot provide would kill the process.
            os.posix_fallocate(descriptor, 0, size)
            self.memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def read(self, local_rank: int) -> Slot:
        """Return what the rank of this number on the node has counted."""
        at = _HEADER + local_rank * _SLOT
        pid, rank, ticks, phase, _, steps, changes = _RANK.unpack_from(self.memory, at)
        recent = struct.unpack_from(f"<{min(steps, RECENT)}d", self.memory, at + _RING_AT)
        known = PHASES[phase] if phase < len(PHASES) else PHASES[0]
        return Slot(pid, rank - 1 if rank else None, ticks, known, steps, changes, recent)

    @property
    def watchdog(self) -> int:
        """Return the process id of the watchdog; 0 before it has started."""
        return int(_WATCHDOG.unpack_from(self.memory, 0)[0])

    @watchdog.setter
    def watchdog(self, pid: int) -> None:
        _WATCHDOG.pack_into(self.memory, 0, pid)


class Heartbeat:
    """The count of one rank. Without a directory every method returns at once."""

    def __init__(self, counts: Optional[Counts] = None, local_rank: int = 0) -> None:
        self._counts = counts
        self._at = _HEADER + local_rank * _SLOT
        self._phase = PHASES.index("not started")
        self._steps = self._changes = 0
        self._began = 0.0
        self._permitted = False

    def begin(self, rank: int) -> None:
        """Take the slot of this rank; also again after the process has replaced itself by a new start."""
        if self._counts is None:
            return
        memory, pid = self._counts.memory, os.getpid()
        self._changes = self._counts.read((self._at - _HEADER) // _SLOT).changes
        _RANK.pack_into(memory, self._at, pid, rank + 1, start_ticks_of(pid) or 0, 0, 0, 0, self._changes)
        self.enter("starting")

    def enter(self, phase: Phase) -> None:
        """Note that a phase begins."""
        if self._counts is None:
            return
        number = PHASES.index(phase)
        if number != self._phase:
            self._phase = number
            self._changed()
            _PHASE.pack_into(self._counts.memory, self._at + _PHASE_AT, number)
        self._began = time.monotonic()
        if not self._permitted:
            self._permit()

    def step_done(self) -> None:
        """Count a step, which began when the last phase was entered, and enter `between steps`."""
        if self._counts is None:
            return
        at = self._at + _RING_AT + self._steps % RECENT * _SECONDS.size
        # The first step compiles and allocates, and has a limit of its own.
        seconds = 0.0 if self._phase == _FIRST_STEP else time.monotonic() - self._began
        _SECONDS.pack_into(self._counts.memory, at, seconds)
        self._steps += 1
        self.enter("between steps")

    def _changed(self) -> None:
        assert self._counts is not None  # noqa: S101 the callers have looked
        self._changes += 1
        _COUNTS.pack_into(self._counts.memory, self._at + _STEPS_AT, self._steps, self._changes)

    def _permit(self) -> None:
        """Permit the watchdog and its children (py-spy) to read this process, where Yama restricts that."""
        assert self._counts is not None  # noqa: S101 the caller has looked
        if watchdog := self._counts.watchdog:
            import ctypes

            self._permitted = True
            # Without prctl py-spy says itself what it may not read.
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PTRACER, watchdog, 0, 0, 0)


def join(environ: MutableMapping[str, str] = os.environ) -> Heartbeat:
    """Return the heartbeat of the rank that `environ` describes, and let it answer the watchdog.

    From now on the process writes its stacks at STACK_SIGNAL, also while a C function holds the interpreter, and a
    thread writes the flight recorder when the watchdog asks. A node without a writable directory counts nothing.
    """
    directory = environ.get(DIRECTORY)
    if not directory:
        return Heartbeat()
    try:
        path = Path(directory)
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to another user")
        rank, local_rank = int(environ["RANK"]), int(environ["LOCAL_RANK"])
        heartbeat = Heartbeat(Counts(path, int(environ["LOCAL_WORLD_SIZE"])), local_rank)
    except (OSError, ValueError, KeyError) as error:
        print(f"warning: the ranks of this node are not watched for hangs: {error}", file=sys.stderr, flush=True)
        # The warning above has said it.
        with contextlib.suppress(OSError, KeyError, ValueError):
            _attempt(environ).unwatched(int(environ["RANK"])).write_text(f"{error}\n")
        return Heartbeat()
    try:
        _answer_with_stacks(path, local_rank)
        _answer_with_flight_recorder(path, local_rank, rank, environ)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(f"warning: a hang of this rank would show no stacks: {error}", file=sys.stderr, flush=True)
    heartbeat.begin(rank)
    return heartbeat


def _attempt(environ: Mapping[str, str]) -> AttemptPaths:
    return RunPaths(Path(environ["LAUNCHER_RUN_DIR"])).attempt_paths(environ["LAUNCHER_ATTEMPT"])


def _answer_with_stacks(directory: Path, local_rank: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    descriptor = os.open(directory / f"stack-{local_rank}", flags, 0o600)
    # The watchdog signals the main thread, which writes its own frames.
    faulthandler.register(STACK_SIGNAL, file=descriptor, all_threads=False, chain=False)
    faulthandler.register(ALL_STACKS_SIGNAL, file=descriptor, all_threads=True, chain=False)


def _answer_with_flight_recorder(
    directory: Path, local_rank: int, rank: int, environ: MutableMapping[str, str]
) -> None:
    dump = _attempt(environ).flight_recorder(rank)
    for name, value in flight_recorder_variables(dump.parent, torch_release()).items():
        environ.setdefault(name, value)
    ask = directory / f"ask-{local_rank}"
    # Of an earlier start of the same rank.
    with contextlib.suppress(FileExistsError):
        os.mkfifo(ask, 0o600)
    # Open for reading and writing: there is no end of file, and opening waits for no other process.
    questions = os.open(ask, os.O_RDWR)
    answer = os.open(directory / f"recorder-{local_rank}", os.O_RDWR | os.O_CREAT, 0o600)
    threading.Thread(target=_answer, args=(questions, answer, dump), name="flight-recorder", daemon=True).start()


def flight_recorder_variables(directory: Path, torch: Optional[tuple[int, int]]) -> Mapping[str, str]:
    """Return the variables that make this release of torch record collectives and dump them into `directory`.

    The old names count in every release, and a new one warns of them in each rank; an unknown release gets both.
    """
    prefix = str(directory / FLIGHT_RECORDER)
    new = {"TORCH_FR_BUFFER_SIZE": _FLIGHT_RECORDER_ENTRIES, "TORCH_FR_DUMP_TEMP_FILE": prefix}
    old = {"TORCH_NCCL_TRACE_BUFFER_SIZE": _FLIGHT_RECORDER_ENTRIES, "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": prefix}
    only_new = torch is not None and torch >= _NEW_NAMES_SINCE
    return {"TORCH_NCCL_DUMP_ON_TIMEOUT": "1", **new, **({} if only_new else old)}


def torch_release() -> Optional[tuple[int, int]]:
    """Return the first two numbers of torch's version without importing it; None where it is not to be found."""
    try:
        spec = importlib.util.find_spec("torch")
        text = Path(spec.origin).with_name("version.py").read_text() if spec and spec.origin else ""
    except (OSError, ValueError, ImportError):
        return None
    found = re.search(r"__version__ = ['\"](\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _answer(questions: int, answer: int, dump: Path) -> None:
    """Write the flight recorder of this process each time that the watchdog asks, until the process ends."""
    while os.read(questions, 1):
        # A recorder that cannot be read must not end the rank; the watchdog waits for an answer no longer than it says.
        with contextlib.suppress(Exception):
            current, content = recorded_collectives()
            os.ftruncate(answer, 0)
            os.pwrite(answer, json.dumps(current).encode() + b"\n", 0)
            if content:
                dump.parent.mkdir(exist_ok=True)
                temporary = dump.with_name(f".{dump.name}.tmp")
                temporary.write_bytes(content)
                temporary.replace(dump)


def recorded_collectives() -> tuple[list[CollectiveRecord], bytes]:
    """Return the current collective of each process group, and the whole recorder as torch itself would dump it.

    NCCL's recorder comes first, then the one of gloo. Not there before torch 2.5; for gloo since torch 2.8. The stack
    of each call is left out: for it torch 2.13 imports its compiler, which takes seconds.
    """
    torch = sys.modules.get("torch")
    module = getattr(getattr(torch, "_C", None), "_distributed_c10d", None)
    current: list[CollectiveRecord] = []
    content = b""
    for as_json, as_pickle in (
        ("_dump_nccl_trace_json", "_dump_nccl_trace"),
        ("_dump_fr_trace_json", "_dump_fr_trace"),
    ):
        function = getattr(module, as_json, None)
        if function is None:
            continue
        dump = flight_recorder.read(function(True, False))
        current += current_collectives(dump)
        if dump.entries and not content and (whole := getattr(module, as_pickle, None)):
            content = whole(True, False, False)
    return current, content
