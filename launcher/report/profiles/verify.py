"""Verification of reports: whether each can be read and holds the steps that its rank recorded."""

import gzip
import re
import tempfile
import zlib
from pathlib import Path
from typing import TypeAlias

from launcher._util.errors import CommandError, MissingProgramError
from launcher._util.shell import Shell
from launcher.contract.files import read_object

_CHUNK = 1 << 20
_OVERLAP = 64
_STEP = re.compile(rb'"name": ?"step (\d+)[ "]')
_EXPORT_TIMEOUT_S = 600.0

Answer: TypeAlias = tuple[bool | None, str | None]
"""Whether a report is sound, and what is wrong; None and the reason if it cannot be checked here."""


def check_report(path: Path, profiler: str, steps: tuple[int, ...], shell: Shell) -> Answer:
    """Check a report that exists, is not empty and has its recorded size."""
    if profiler == "nsys":
        return _check_nsys(path, shell)
    if profiler in ("torch", "viztracer"):
        return _check_trace(path, steps)
    if profiler == "memory":
        return _check_pickle(path)
    return True, None


def _check_trace(path: Path, steps: tuple[int, ...]) -> Answer:
    """Check that a trace can be decompressed to its end, closes its outer object and names every step."""
    seen: set[int] = set()
    tail = b""
    try:
        with gzip.open(path) as file:
            while chunk := file.read(_CHUNK):
                seen.update(int(number) for number in _STEP.findall(tail + chunk))
                tail = (tail + chunk)[-_OVERLAP:]
    except (OSError, EOFError, zlib.error) as error:
        return False, f"it cannot be decompressed: {error}"
    if not tail.rstrip().endswith(b"}"):
        return False, "it is truncated: the JSON does not end"
    missing = [step for step in steps if step not in seen]
    return (False, f"step {missing[0]} is not in it") if missing else (True, None)


def _check_pickle(path: Path) -> Answer:
    # Not loaded, because loading a pickle executes it. It starts with PROTO and ends with STOP, a dot.
    with path.open("rb") as file:
        first = file.read(1)
        file.seek(-1, 2)
        last = file.read(1)
    return (True, None) if (first, last) == (b"\x80", b".") else (False, "it is not a complete pickle")


def _check_nsys(path: Path, shell: Shell) -> Answer:
    around = read_object(path.with_name(f"{path.stem}.nsys.json")) or {}
    if around.get("opens"):
        return True, None
    with tempfile.TemporaryDirectory() as directory:
        try:
            export(path, Path(directory) / "report.sqlite", shell)
        except MissingProgramError:  # the answer says so
            return None, f"not checked: {around.get('why') or 'the job had no nsys'}, and this machine has no nsys"
        except CommandError as error:
            return False, f"nsys cannot read it: {error.message}"
    return True, None


def export(report: Path, database: Path, shell: Shell) -> None:
    """Export a report to SQLite with this machine's nsys.

    Raises MissingProgramError if there is no nsys, CommandError if it fails.
    """
    copy = database.with_name(report.name)
    # Export a copy: the importer has been observed to change the file that it reads.
    copy.write_bytes(report.read_bytes())
    argv = ["nsys", "export", "--type=sqlite", f"--output={database}", str(copy)]
    shell.run(argv, timeout_s=_EXPORT_TIMEOUT_S)
    if not database.is_file():
        raise CommandError("nsys export succeeded but wrote no file", where=str(report))
