"""The list of captures that a run should have made, with the state of each."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher._util.errors import RequestError
from launcher._util.shell import Shell
from launcher.contract import profiles, rank_ends
from launcher.contract.files import read_object
from launcher.contract.records.request import ProfilerRequest
from launcher.contract.records.result import AttemptResult, ProfilesResult
from launcher.contract.validation import problems
from launcher.report.profiles.verify import check_report
from launcher.rundir import Attempt, RunDirectory


@dataclass(frozen=True)
class Capture:
    """An expected capture. `sound` is None if its window lay before the attempt, or it could not be checked."""

    attempt: str
    profiler: str
    rank: int
    node: int | None
    job: str | None
    path: Path | None
    bytes: int | None
    window: tuple[int, int]
    steps: tuple[int, ...]
    sound: bool | None
    why: str | None
    """What is wrong with it, or could not be checked; None for a sound capture."""

    def to_dict(self) -> dict[str, Any]:
        """Return the capture as plain values for --json."""
        return {
            "attempt": self.attempt,
            "profiler": self.profiler,
            "rank": self.rank,
            "node": self.node,
            "job": self.job,
            "file": str(self.path) if self.path else None,
            "bytes": self.bytes,
            "window": list(self.window),
            "steps": list(self.steps),
            "sound": self.sound,
            "why": self.why,
        }


def list_profiles(run: RunDirectory, shell: Shell, *, attempt: str | None = None) -> tuple[Capture, ...]:
    """Return the expected captures of an attempt (default: of all), oldest first.

    Raises RequestError for a run that was not profiled, or an unknown attempt.
    """
    attempts = [each for each in run.attempts() if attempt is None or each.name == attempt.zfill(3)]
    if attempt is not None and not attempts:
        known = ", ".join(each.name for each in run.attempts()) or "none"
        raise RequestError(f"the run has no attempt {attempt!r}", where=str(run.path), hint=f"Its attempts: {known}.")
    asked = [(each, settings) for each in attempts if (settings := profiles.asked_of(each)) is not None]
    if attempts and not asked:
        raise RequestError(
            "this run was not profiled",
            where=str(run.path),
            hint="Start a run with --nsys or --profiler torch; with --resume, they capture later steps of this run.",
        )
    world_size = int(run.plan.get("world_size", 0))
    return tuple(found for each, settings in asked for found in _of_attempt(each, settings, world_size, shell))


def _of_attempt(attempt: Attempt, settings: ProfilerRequest, world_size: int, shell: Shell) -> Iterable[Capture]:
    for rank in profiles.expected_ranks(settings, world_size):
        found = profiles.judge(attempt.profiles, settings, rank, _ended(attempt, rank))
        record_path = profiles.record_path(attempt.profiles, settings, rank)
        record = (read_object(record_path) if record_path else None) or {}
        path = attempt.profiles / found.file if found.file and found.bytes is not None else None
        sound, why = found.sound, found.why
        if sound and path is not None:
            sound, why = check_report(path, str(settings["name"]), found.steps, shell)
        window = record.get("window") or (settings["start"], settings["stop"])
        yield Capture(
            attempt=attempt.name,
            profiler=str(settings["name"]),
            rank=rank,
            node=record.get("node"),
            job=record.get("job"),
            path=path,
            bytes=found.bytes,
            window=(int(window[0]), int(window[1])),
            steps=found.steps,
            sound=sound,
            why=why,
        )


def _ended(attempt: Attempt, rank: int) -> str:
    """Describe how a rank ended, from its record, else from the attempt's verdict."""
    result = attempt.result
    if result is None:
        return "the attempt is still running"
    record = rank_ends.of_rank(attempt, rank).record
    if record is None:
        return str(result.get("reason") or f"the attempt {result.get('outcome')}")
    return f"{record.get('outcome')} at iteration {record.get('iteration')}"


def missing_lines(result: AttemptResult | None) -> list[str]:
    """Return a line for each profile that an attempt's result.json reports as missing."""
    profiles_result = result.get("profiles") if result else None
    if not isinstance(profiles_result, dict) or any(problems(profiles_result, ProfilesResult, unknown_keys=True)):
        return []
    lines = [
        f"no sound {profiles_result['profiler']} report of rank {one['rank']}: {one['why']}"
        for one in profiles_result["missing"]
    ]
    return [*lines, f"nothing was profiled: {profiles_result['passed']}"] if profiles_result.get("passed") else lines
