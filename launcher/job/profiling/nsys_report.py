"""Checks of nsys' report: whether it exists, whether it opens, and what it holds."""

import contextlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, cast

from launcher.contract.records.captures import NsysReport

_STEP = re.compile(r"step (\d+)")
_KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
_KEPT = 300


def examine(program: str, report: Path, *, ended: bool, after_s: float, limit_s: float) -> NsysReport:
    """Return `file`, `bytes`, `opens` (None: unknown), `why`, `kernels` and `steps` of a report.

    `ended` says that nsys had to be ended, `after_s` seconds after the program. The report is exported to SQLite beside
    it within `limit_s`, from a copy, because the importer was observed to change what it reads.
    """
    try:
        size = report.stat().st_size
    except OSError:
        return {"file": None, "bytes": None, "opens": None, "why": _why_missing(report, ended, after_s)}
    found: NsysReport = {"file": report.name, "bytes": size, "opens": None, "why": None}
    if size == 0:
        return {**found, "why": "the report is empty"}
    database = report.with_suffix(".sqlite")
    copy = report.with_name(f".export-{report.name}")
    try:
        shutil.copyfile(report, copy)
        argv = [program, "export", "--type=sqlite", f"--output={database}", str(copy)]
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {**found, "why": f"nsys export did not end within {limit_s:g} s"}
    except OSError as error:
        return {**found, "why": f"the report cannot be exported: {error}"}
    finally:
        for path in report.parent.glob(f".export-{report.stem}.*"):
            with contextlib.suppress(OSError):  # a left-over only costs space
                path.unlink()
    if done.returncode != 0 or not database.is_file():
        words = " ".join(done.stdout.decode(errors="replace").split())[-_KEPT:]
        return {**found, "opens": False, "why": f"nsys export ended with status {done.returncode}: {words}"}
    return cast(NsysReport, {**found, **read_database(database)})


def _why_missing(report: Path, ended: bool, after_s: float) -> str:
    if report.with_suffix(".qdstrm").exists():
        return "nsys left only a .qdstrm: its importer is missing or lacks libraries (libdw.so.1, libelf.so.1)"
    if ended:
        return f"nsys was ended because it was still running {after_s:g} s after the program"
    return "nsys wrote no report: the capture range was never opened"


def read_database(path: Path) -> dict[str, Any]:
    """Return `opens`, `kernels` (rows) and `steps` (numbers of the ranges `step N`) of an export."""
    try:
        import sqlite3
    except ImportError:  # this Python was built without it
        return {"opens": None, "why": "this Python has no sqlite3"}
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        with contextlib.closing(connection):
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            kernels = 0
            if _KERNELS in tables:
                kernels = int(connection.execute(f"SELECT count(*) FROM {_KERNELS}").fetchone()[0])  # noqa: S608
            return {"opens": True, "kernels": kernels, "steps": _steps(connection, tables)}
    except sqlite3.Error as error:
        return {"opens": False, "why": f"the export cannot be read: {error}"}


def _steps(connection: Any, tables: "set[str]") -> list[int]:
    if "NVTX_EVENTS" not in tables:
        return []
    query = "SELECT DISTINCT coalesce(e.text, s.value) FROM NVTX_EVENTS e LEFT JOIN StringIds s ON s.id = e.textId"
    if "StringIds" not in tables:
        query = "SELECT DISTINCT text FROM NVTX_EVENTS"
    texts = (str(text) for (text,) in connection.execute(query))
    return sorted({int(match[1]) for text in texts if (match := _STEP.fullmatch(text))})
