"""Activities of a report: name, kind, start and end in microseconds, thread.

nsys        https://docs.nvidia.com/nsight-systems/UserGuide/index.html#sqlite-schema-reference
torch       Chrome's trace format, with the categories of Kineto (kernel, gpu_memcpy, cpu_op, user_annotation)
VizTracer   the same format, one event for each call
"""

import contextlib
import gzip
import json
import re
import sqlite3
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from launcher._util.errors import DiskError, RequestError
from launcher._util.shell import Shell
from launcher.report.profiles.verify import export

COMMUNICATION = "(?i)nccl|nvshmem|deep_?ep|hybrid_?ep|userbuffers|^gloo:|^c10d::"
"""Names of communication: NCCL's kernels, those of expert-parallel backends, gloo's threads, c10d's calls."""

_STEP = re.compile(r"step (\d+)(?: \(.*)?", re.DOTALL)
_GPU = ("kernel", "gpu_memcpy", "gpu_memset")

Device: TypeAlias = Literal["gpu", "cpu", "python"]


class Activity(NamedTuple):
    """One kernel, copy or call."""

    name: str
    kind: Literal["kernel", "copy", "call"]
    start: float
    end: float
    thread: str


class ProfiledStep(NamedTuple):
    """One step of the training."""

    number: int
    start: float
    end: float


@dataclass(frozen=True)
class Activities:
    """The activities of a rank, and its steps in their order."""

    device: Device
    rows: list[Activity]
    steps: list[ProfiledStep]


def read_activities(path: Path, profiler: str, shell: Shell) -> Activities:
    """Read a report. Raises RequestError if it has no timeline, DiskError if it is unreadable."""
    if profiler == "nsys":
        return _read_report(path, shell)
    if profiler == "torch":
        return read_torch(_events(path))
    if profiler == "viztracer":
        return read_viztracer(_events(path))
    viewer = "https://pytorch.org/memory_viz" if profiler == "memory" else "the tools of your own profiler class"
    raise RequestError(f"there is no table for reports of {profiler}", where=str(path), hint=f"Open it with {viewer}.")


def _read_report(path: Path, shell: Shell) -> Activities:
    beside = path.with_suffix(".sqlite")
    if beside.is_file():
        return read_nsys(beside)
    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory) / "report.sqlite"
        export(path, database, shell)
        return read_nsys(database)


_KERNELS = {
    "CUPTI_ACTIVITY_KIND_KERNEL": "SELECT s.value, 'kernel', a.start, a.end FROM "
    "CUPTI_ACTIVITY_KIND_KERNEL a JOIN StringIds s ON s.id = a.demangledName",
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": "SELECT '[CUDA graph]', 'kernel', start, end FROM "
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE",
    "CUPTI_ACTIVITY_KIND_MEMCPY": "SELECT '[memcpy]', 'copy', start, end FROM CUPTI_ACTIVITY_KIND_MEMCPY",
    "CUPTI_ACTIVITY_KIND_MEMSET": "SELECT '[memset]', 'copy', start, end FROM CUPTI_ACTIVITY_KIND_MEMSET",
}
_RANGES = (
    "SELECT coalesce(e.text, s.value), e.start, e.end FROM NVTX_EVENTS e LEFT JOIN StringIds s ON s.id = e.textId "
    "WHERE e.end IS NOT NULL AND coalesce(e.text, s.value) LIKE 'step %'"
)


def read_nsys(database: Path) -> Activities:
    """Read nsys' SQLite export: kernels, copies and fills on the GPU, and the NVTX ranges of steps."""
    rows: list[Activity] = []
    marks: list[tuple[str, float, float]] = []
    names: dict[str, str] = {}  # each name is kept once
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            for table, query in _KERNELS.items():
                if table in there:
                    rows += [
                        Activity(names.setdefault(name, name), kind, start / 1000, end / 1000, "")
                        for name, kind, start, end in connection.execute(query)
                    ]
            if "NVTX_EVENTS" in there:
                marks = [(name, start / 1000, end / 1000) for name, start, end in connection.execute(_RANGES)]
    except sqlite3.Error as error:
        raise DiskError(f"the export cannot be read: {error}", where=str(database)) from error
    return Activities("gpu", rows, _steps(marks))


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DiskError(f"the trace cannot be read: {error}", where=str(path)) from error
    return [event for event in events if event.get("ph") == "X" and "dur" in event]


def _row(event: dict[str, Any], kind: Literal["kernel", "copy", "call"]) -> Activity:
    start = float(event["ts"])
    return Activity(str(event["name"]), kind, start, start + float(event["dur"]), str(event.get("tid")))


def _marks(events: Iterable[dict[str, Any]]) -> list[tuple[str, float, float]]:
    return [(row.name, row.start, row.end) for row in (_row(event, "call") for event in events)]


def read_torch(events: list[dict[str, Any]]) -> Activities:
    """Read a trace of the PyTorch profiler: activities on the GPU, or on the CPU if there are none."""
    steps = _steps(_marks(event for event in events if event.get("cat") == "user_annotation"))
    on_gpu = [
        _row(event, "kernel" if event["cat"] == "kernel" else "copy") for event in events if event.get("cat") in _GPU
    ]
    if on_gpu:
        return Activities("gpu", on_gpu, steps)
    calls = [
        _row(event, "call")
        for event in events
        if event.get("cat") == "cpu_op" or str(event["name"]).startswith("gloo:")
    ]
    return Activities("cpu", calls, steps)


def read_viztracer(events: list[dict[str, Any]]) -> Activities:
    """Read a trace of VizTracer: calls of Python functions, and of C functions from Python."""
    is_step = re.compile(r"step \d+ \(").match
    calls = [_row(event, "call") for event in events if not is_step(str(event["name"]))]
    return Activities("python", calls, _steps(_marks(event for event in events if is_step(str(event["name"])))))


def _steps(marks: Iterable[tuple[str, float, float]]) -> list[ProfiledStep]:
    """Return the steps in their order; of one that is marked twice the first."""
    found: dict[int, ProfiledStep] = {}
    for name, start, end in marks:
        if match := _STEP.fullmatch(name):
            found.setdefault(int(match[1]), ProfiledStep(int(match[1]), start, end))
    return [found[number] for number in sorted(found)]
