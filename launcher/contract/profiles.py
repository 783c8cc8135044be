"""The files of a captured rank, and the check that they are what was asked for.

A captured rank leaves in `attempts/NNN/profiles/`, all with one stem of their own:

    STEM.EXT         the report, trace or snapshot
    STEM.record.json the rank's own record: which steps it saw, and what became of the capture
    STEM.nsys.json   the record of the process around nsys: how nsys ended, what is in its report
    STEM.sqlite      nsys' report as SQLite, where the export worked

What was asked for is in argv.json (`options.profiler`): name, start, stop, ranks, extension. Steps are Megatron's:
step N is the iteration that begins after N are done (the log calls it N + 1), from `start` until before `stop`.
"""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, cast

from launcher.contract.frozen import dataclass

from .files import read_object
from .paths import AttemptPaths, RunPaths

if TYPE_CHECKING:
    from .records.request import ProfilerRequest
    from .records.result import MissingCapture, ProfilesResult

EXTENSIONS = {"nsys": "nsys-rep", "torch": "pt.trace.json.gz", "viztracer": "json.gz", "memory": "pickle"}
"""The built-in profilers, with how their files' names end."""

RECORD = ".record.json"
"""How the name of a rank's record ends."""

NSYS_PATTERNS = (
    "opt/nvidia/nsight-systems*/*/bin/nsys",
    "opt/nvidia/nsight-systems*/*/target-linux-*/nsys",
    "usr/local/cuda*/bin/nsys",
    "opt/nvidia/nsight-compute/*/host/target-linux-*/nsys",
)
"""Where NVIDIA's packages put nsys, which an image's PATH does not always contain."""


def find_nsys(program: str = "nsys", *, path: Optional[str] = None, root: Path = Path("/")) -> Optional[str]:
    """Return the program on `path` (default: PATH), or for plain `nsys` the newest of those in NSYS_PATTERNS."""
    found = shutil.which(program, path=path)
    if found is not None or program != "nsys":
        return found
    for pattern in NSYS_PATTERNS:
        there = [each for each in root.glob(pattern) if os.access(each, os.X_OK)]
        if there:
            return str(max(there, key=_numbers))
    return None


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(path))]


@dataclass(frozen=True)
class CaptureCheck:
    """An expected capture. `sound` is None where its window lay before this attempt, so that it left no file."""

    rank: int
    sound: Optional[bool]
    why: Optional[str]
    """What is wrong with it; None if nothing is."""
    file: Optional[str]
    bytes: Optional[int]
    steps: tuple[int, ...]
    """The steps that were captured whole."""

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain values."""
        return {**asdict(self), "steps": list(self.steps)}


def stem(profiler: str, job: str, attempt: str, node: int, rank: int) -> str:
    """Return the name of a rank's files without their ending; `job` is Slurm's number, or `local`."""
    return f"{profiler}_job{job}_attempt{attempt}_node{node}_rank{rank}"


def expected_ranks(settings: "ProfilerRequest", world_size: int) -> tuple[int, ...]:
    """Return the ranks to capture; an empty list in the request means all."""
    return tuple(int(rank) for rank in settings.get("ranks") or range(world_size))


def asked_of(attempt: AttemptPaths) -> "Optional[ProfilerRequest]":
    """Return what was to be captured in an attempt; None if nothing.

    --resume gives a run a new argv.json and keeps the old one beside the logs of the newest attempt of before.
    """
    run = RunPaths(attempt.path.parent.parent)
    later = sorted(
        each for each in run.attempts_directory.iterdir() if each.name.isdigit() and each.name >= attempt.name
    )
    files = [*(each / run.argv_file.name for each in later), run.argv_file]
    request = next((found for file in files if (found := read_object(file)) is not None), {})
    settings = (request.get("options") or {}).get("profiler")
    return cast("ProfilerRequest", settings) if isinstance(settings, dict) else None


def result(attempt: AttemptPaths, world_size: int, ended: Callable[[int], str]) -> "Optional[ProfilesResult]":
    """Return what result.json says of an attempt's profiles; None for a run without a profiler.

    `ended(rank)` says in a few words how a rank ended. `missing` has each expected capture that is not sound.
    """
    settings = asked_of(attempt)
    if settings is None:
        return None
    ranks = [rank for rank in expected_ranks(settings, world_size) if rank < world_size]
    found = [judge(attempt.profiles, settings, rank, ended(rank)) for rank in ranks]
    missing: list[MissingCapture] = [
        {"rank": one.rank, "file": one.file, "why": one.why} for one in found if one.sound is False
    ]
    return {
        "profiler": settings["name"],
        "steps": [settings["start"], settings["stop"]],
        "expected": sum(one.sound is not None for one in found),
        "found": sum(bool(one.sound) for one in found),
        "missing": missing,
        "passed": next((one.why for one in found if one.sound is None), None),
    }


def record_path(directory: Path, settings: "ProfilerRequest", rank: int) -> Optional[Path]:
    """Return the path of a rank's record, whichever job and node wrote it; None if there is none."""
    pattern = f"{settings['name']}_job*_attempt*_node*_rank{rank}{RECORD}"
    return min(directory.glob(pattern), default=None)


def judge(directory: Path, settings: "ProfilerRequest", rank: int, ended: str) -> CaptureCheck:
    """Check one rank's capture by its records and its file.

    `ended` is how the rank ended, in a few words ("finished at iteration 20"): the reason of what was never reached.
    """
    path = record_path(directory, settings, rank)
    record = read_object(path) if path else None
    start, stop = settings["start"], settings["stop"]
    if path is None or record is None:
        inner = _around_nsys(directory, settings, rank)
        return CaptureCheck(rank, False, f"the rank left no record of its capture: {inner or ended}", None, None, ())
    start, stop = record.get("window") or (start, stop)
    steps = tuple(int(step) for step in record.get("steps") or ())
    state = record.get("state")
    if state == "passed":
        why = f"the attempt began at step {record.get('began_at')}, after the window {start}:{stop}"
        return CaptureCheck(rank, None, why, None, None, ())
    if state == "failed":
        return CaptureCheck(rank, False, f"the profiler failed: {record.get('error')}", None, None, steps)
    if state == "waiting":
        when = "the training loop" if record.get("began_at") is None else f"step {start}"
        return CaptureCheck(rank, False, f"the rank ended before {when}: {ended}", None, None, ())
    if state == "capturing" and settings["name"] != "nsys":
        why = f"the rank ended inside the window {start}:{stop}: {ended}"
        return CaptureCheck(rank, False, why, None, None, steps)
    missing = _missing_steps(steps, start, stop, ended)
    if settings["name"] == "nsys":
        return _judge_nsys(path, rank, steps, missing)
    return _judge_file(path.parent / str(record.get("file")), record.get("bytes"), rank, steps, missing)


def _missing_steps(steps: tuple[int, ...], start: int, stop: int, ended: str) -> Optional[str]:
    missing = [step for step in range(start, stop) if step not in steps]
    if not missing:
        return None
    return f"it covers {len(steps)} of the steps {start}:{stop}, step {missing[0]} is not in it: {ended}"


def _judge_file(
    path: Path, recorded: Optional[int], rank: int, steps: tuple[int, ...], missing: Optional[str]
) -> CaptureCheck:
    try:
        size = path.stat().st_size
    except OSError:
        # The check says so.
        return CaptureCheck(rank, False, "the file is gone: its rank had written it", path.name, None, steps)
    why = missing
    if size == 0:
        why = "the file is empty"
    elif recorded is not None and size != recorded:
        why = f"the file has {size} bytes, and the rank had written {recorded}"
    return CaptureCheck(rank, why is None, why, path.name, size, steps)


def _judge_nsys(record: Path, rank: int, steps: tuple[int, ...], missing: Optional[str]) -> CaptureCheck:
    around = read_object(record.with_name(record.name.replace(RECORD, ".nsys.json")))
    if around is None:
        why = "the process around nsys left no record: it was killed while the report was being written"
        return CaptureCheck(rank, False, why, None, None, steps)
    name = around.get("file")
    if not name:
        return CaptureCheck(rank, False, str(around.get("why") or "nsys wrote no report"), None, None, steps)
    found = _judge_file(record.with_name(str(name)), around.get("bytes"), rank, steps, missing)
    if not found.sound:
        return found
    if around.get("opens") is False:
        return CaptureCheck(
            rank, False, f"nsys cannot read its own report: {around.get('why')}", found.file, found.bytes, steps
        )
    if around.get("kernels") == 0:
        return CaptureCheck(rank, False, "the report opens and holds not one kernel", found.file, found.bytes, steps)
    return found


def _around_nsys(directory: Path, settings: "ProfilerRequest", rank: int) -> Optional[str]:
    """Return why nsys did not start the program, if the process around it says so."""
    if settings["name"] != "nsys":
        return None
    path = min(directory.glob(f"nsys_job*_attempt*_node*_rank{rank}.nsys.json"), default=None)
    record = read_object(path) if path else None
    return str(record["why"]) if record and record.get("why") else None
