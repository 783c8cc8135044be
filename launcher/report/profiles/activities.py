"""Activities of a report as polars frames: one row each, with name, kind, start and end in microseconds.

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from launcher._util.errors import DiskError, RequestError
from launcher._util.shell import Shell
from launcher.report.profiles.verify import export

if TYPE_CHECKING:
    import polars as pl

COMMUNICATION = "(?i)nccl|nvshmem|deep_?ep|hybrid_?ep|userbuffers|^gloo:|^c10d::"
"""Names of communication: NCCL's kernels, those of expert-parallel backends, gloo's threads, c10d's calls."""

_STEP = re.compile(r"step (\d+)(?: \(.*)?", re.DOTALL)
_GPU = ("kernel", "gpu_memcpy", "gpu_memset")

Device: TypeAlias = Literal["gpu", "cpu", "python"]


@dataclass(frozen=True)
class Activities:
    """The activities of a rank: `frame` has name, kind (kernel, copy, call), start, end, thread; `steps` its steps."""

    device: Device
    frame: "pl.DataFrame"
    steps: "pl.DataFrame"


def read_activities(path: Path, profiler: str, shell: Shell) -> Activities:
    """Read a report. Raises RequestError if it has no timeline or polars is missing, DiskError if it is unreadable."""
    try:
        import polars  # noqa: F401
    except ImportError:
        raise RequestError(
            "tables need polars, which is not installed", hint="pip install 'megatron-launcher[analysis]'"
        ) from None
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


def read_nsys(database: Path) -> Activities:
    """Read nsys' SQLite export: kernels, copies and fills on the GPU, and the NVTX ranges of steps."""
    import polars as pl

    queries = {
        "CUPTI_ACTIVITY_KIND_KERNEL": "SELECT s.value AS name, 'kernel' AS kind, a.start, a.end FROM "
        "CUPTI_ACTIVITY_KIND_KERNEL a JOIN StringIds s ON s.id = a.demangledName",
        "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": "SELECT '[CUDA graph]' AS name, 'kernel' AS kind, start, end FROM "
        "CUPTI_ACTIVITY_KIND_GRAPH_TRACE",
        "CUPTI_ACTIVITY_KIND_MEMCPY": "SELECT '[memcpy]' AS name, 'copy' AS kind, start, end FROM "
        "CUPTI_ACTIVITY_KIND_MEMCPY",
        "CUPTI_ACTIVITY_KIND_MEMSET": "SELECT '[memset]' AS name, 'copy' AS kind, start, end FROM "
        "CUPTI_ACTIVITY_KIND_MEMSET",
    }
    schema = {"name": pl.String, "kind": pl.String, "start": pl.Int64, "end": pl.Int64}
    ranges = "SELECT coalesce(e.text, s.value) AS name, e.start, e.end FROM NVTX_EVENTS e LEFT JOIN StringIds s ON "
    ranges += "s.id = e.textId WHERE e.end IS NOT NULL AND coalesce(e.text, s.value) LIKE 'step %'"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            names = pl.read_database("SELECT name FROM sqlite_master", connection, schema_overrides={"name": pl.String})
            there = set(names["name"])
            frames = [
                pl.read_database(query, connection, schema_overrides=schema)
                for table, query in queries.items()
                if table in there
            ]
            marks = pl.DataFrame(schema={"name": pl.String, "start": pl.Int64, "end": pl.Int64})
            if "NVTX_EVENTS" in there:
                marks = pl.read_database(
                    ranges, connection, schema_overrides={"name": pl.String, "start": pl.Int64, "end": pl.Int64}
                )
    except sqlite3.Error as error:
        raise DiskError(f"the export cannot be read: {error}", where=str(database)) from error
    frame = pl.concat(frames) if frames else pl.DataFrame(schema=schema)
    frame = frame.with_columns(pl.lit("").alias("thread"), pl.col("start", "end") / 1000.0)
    return Activities("gpu", _ordered(frame), _steps(marks.with_columns(pl.col("start", "end") / 1000.0)))


def _events(path: Path) -> list[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
            events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DiskError(f"the trace cannot be read: {error}", where=str(path)) from error
    return [event for event in events if event.get("ph") == "X" and "dur" in event]


def _frame(events: list[dict[str, Any]]) -> "pl.DataFrame":
    import polars as pl

    schema = {"name": pl.String, "category": pl.String, "thread": pl.String, "start": pl.Float64, "dur": pl.Float64}
    rows = [
        (str(each["name"]), str(each.get("cat", "")), str(each.get("tid")), float(each["ts"]), float(each["dur"]))
        for each in events
    ]
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns((pl.col("start") + pl.col("dur")).alias("end")).drop("dur")


def read_torch(events: list[dict[str, Any]]) -> Activities:
    """Read a trace of the PyTorch profiler: activities on the GPU, or on the CPU if there are none."""
    import polars as pl

    frame = _frame(events)
    steps = _steps(frame.filter(pl.col("category") == "user_annotation"))
    on_gpu = frame.filter(pl.col("category").is_in(_GPU))
    if not on_gpu.is_empty():
        kind = pl.when(pl.col("category") == "kernel").then(pl.lit("kernel")).otherwise(pl.lit("copy"))
        return Activities("gpu", _ordered(on_gpu.with_columns(kind.alias("kind"))), steps)
    gloo = pl.col("name").str.starts_with("gloo:")
    on_cpu = frame.filter((pl.col("category") == "cpu_op") | gloo)
    return Activities("cpu", _ordered(on_cpu.with_columns(pl.lit("call").alias("kind"))), steps)


def read_viztracer(events: list[dict[str, Any]]) -> Activities:
    """Read a trace of VizTracer: calls of Python functions, and of C functions from Python."""
    import polars as pl

    frame = _frame(events)
    is_step = pl.col("name").str.contains(r"^step \d+ \(")
    calls = frame.filter(~is_step).with_columns(pl.lit("call").alias("kind"))
    return Activities("python", _ordered(calls), _steps(frame.filter(is_step)))


def _ordered(frame: "pl.DataFrame") -> "pl.DataFrame":
    return frame.select("name", "kind", "start", "end", "thread")


def _steps(marks: "pl.DataFrame") -> "pl.DataFrame":
    import polars as pl

    schema = {"number": pl.Int64, "start": pl.Float64, "end": pl.Float64}
    rows = [
        (int(match[1]), start, end)
        for name, start, end in marks.select("name", "start", "end").iter_rows()
        if (match := _STEP.fullmatch(name))
    ]
    return pl.DataFrame(rows, schema=schema, orient="row").unique("number", keep="first").sort("number")
