"""Whether a run is as good as a baseline: step time, memory and loss, with Bridge's limits.

The limits and ranges are those of Megatron Bridge's scripts/performance/utils/evaluate.py (July 2026): 5 % of time and
memory; 10 % of a loss above 2, 5 % of one above 0.5, 2 % below; 3 % of the last loss; at most a tenth of the points may
be outside. Its golden files are read as they are.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from launcher._util import toml
from launcher._util.errors import ConfigError
from launcher._util.user_paths import user_path
from launcher.correlate.compare import Side, read_side
from launcher.correlate.history import Point


@dataclass(frozen=True)
class Limits:
    """How far a run may be from its baseline, as fractions."""

    step_time: float = 0.05
    memory: float = 0.05
    loss_above_2: float = 0.10
    loss_above_half: float = 0.05
    loss_below: float = 0.02
    last_loss: float = 0.03
    outliers: float = 0.1
    """The share of points that may be outside."""
    skip_time: float = 0.1
    """The share of first iterations whose time does not count; at least one."""


@dataclass(frozen=True)
class GateResult:
    """One thing that was looked at."""

    name: str
    passed: bool
    text: str


@dataclass(frozen=True)
class Baseline:
    """What a run is compared with."""

    points: tuple[Point, ...]
    limits: Limits


def read_baseline(text: str, directory: Path, run_root: str | None = None) -> Baseline:
    """Read a baseline: Bridge's golden JSON, or TOML that names a `run`, a `golden` file, or has `iterations`.

    `[limits]` changes limits. Raises ConfigError.
    """
    path = user_path(text, directory, where="--gate")
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return Baseline(golden_points(json.loads(content), str(path)), Limits())
        stated = toml.loads(content)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from None
    unknown = sorted(set(stated) - {"run", "golden", "iterations", "limits"})
    if unknown:
        raise ConfigError(f"unknown key {unknown[0]}; there are run, golden, iterations, limits", where=str(path))
    limits = _limits(stated.get("limits", {}), str(path))
    if "golden" in stated:
        golden = user_path(str(stated["golden"]), path.parent, where=str(path))
        return Baseline(read_baseline(str(golden), path.parent).points, limits)
    if "run" in stated:
        return Baseline(read_side(str(stated["run"]), run_root).points, limits)
    points = tuple(_point(one, str(path)) for one in stated.get("iterations", ()))
    return Baseline(points, limits)


def _limits(stated: Mapping[str, Any], where: str) -> Limits:
    known = {one.name for one in fields(Limits)}
    for name, value in stated.items():
        if name not in known:
            raise ConfigError(f"unknown limit {name}; there are {', '.join(sorted(known))}", where=where)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 10:
            raise ConfigError(f"limits.{name} is a fraction, such as 0.05", where=where)
    return Limits(**stated)


def _point(stated: Mapping[str, Any], where: str) -> Point:
    try:
        return Point(
            int(stated["iteration"]),
            stated.get("loss"),
            seconds=stated.get("seconds"),
            memory_bytes=stated.get("memory_bytes"),
        )
    except (KeyError, TypeError, ValueError):
        raise ConfigError("an entry of iterations has iteration, loss, seconds and memory_bytes", where=where) from None


def golden_points(stored: Any, where: str) -> tuple[Point, ...]:
    """Return the iterations of a golden file of Bridge's, which counts them from 0. Raises ConfigError."""
    if not isinstance(stored, dict):
        raise ConfigError("is not a golden file: an object by step is expected", where=where)
    memory = stored.get("max_alloc")
    found = []
    for step, values in stored.items():
        if not step.isdigit() or not isinstance(values, dict):
            continue
        milliseconds = values.get("elapsed time per iteration (ms)")
        seconds = values.get("step time", milliseconds / 1000 if milliseconds is not None else None)
        loss = values.get("lm loss")
        gigabytes = float(memory) * 1e9 if isinstance(memory, int | float) else None
        found.append(
            Point(int(step) + 1, None if loss is None else float(loss), seconds=seconds, memory_bytes=gigabytes)
        )
    if not found:
        raise ConfigError("is not a golden file: it has no steps", where=where)
    return tuple(sorted(found, key=lambda point: point.iteration))


def check(side: Side, baseline: Baseline) -> list[GateResult]:
    """Return what was found of a run against its baseline; a metric that one of them lacks is said, not passed over."""
    limits = baseline.limits
    return [
        _losses(side.points, baseline.points, limits),
        _last_loss(side.points, baseline.points, limits),
        _time(side.points, baseline.points, limits),
        _memory(side.points, baseline.points, limits),
    ]


def _losses(points: Sequence[Point], golden: Sequence[Point], limits: Limits) -> GateResult:
    ours = {point.iteration: point.loss for point in points}
    pairs = [(one.iteration, one.loss, ours.get(one.iteration)) for one in golden if one.loss is not None]
    if not pairs:
        return GateResult("loss", True, "the baseline has no losses: not checked")
    outside = []
    for iteration, wanted, loss in pairs:
        limit = limits.loss_above_2 if wanted > 2 else limits.loss_above_half if wanted > 0.5 else limits.loss_below
        if loss is None or not math.isfinite(loss) or abs(loss - wanted) > limit * abs(wanted):
            outside.append((iteration, wanted, loss))
    share = len(outside) / len(pairs)
    if not outside:
        return GateResult("loss", True, f"all {len(pairs)} losses are within their limits")
    first = outside[0]
    shown = "missing" if first[2] is None else f"{first[2]:.6g}"
    text = (
        f"{len(outside)} of {len(pairs)} losses are outside ({share:.0%}; {limits.outliers:.0%} may be), first "
        f"iteration {first[0]}: {shown} instead of {first[1]:.6g}"
    )
    return GateResult("loss", share <= limits.outliers, text)


def _last_loss(points: Sequence[Point], golden: Sequence[Point], limits: Limits) -> GateResult:
    wanted = next((point for point in reversed(golden) if point.loss is not None), None)
    if wanted is None or wanted.loss is None:
        return GateResult("last loss", True, "the baseline has no losses: not checked")
    loss = next((point.loss for point in points if point.iteration == wanted.iteration), None)
    if loss is None:
        return GateResult("last loss", False, f"iteration {wanted.iteration} is missing")
    apart = abs(loss - wanted.loss) / abs(wanted.loss) if wanted.loss else abs(loss)
    text = f"{loss:.6g}, baseline {wanted.loss:.6g}: {apart:.2%} apart, {limits.last_loss:.0%} may be"
    return GateResult("last loss", math.isfinite(loss) and apart <= limits.last_loss, text)


def _steady(points: Sequence[Point], limits: Limits) -> list[float]:
    times = [point.seconds for point in points if point.seconds is not None]
    return times[max(1, int(len(times) * limits.skip_time)) :]


def noise_of(times: Sequence[float]) -> float:
    """Return the standard error of the median of step times, relative to it: from the spread of the steps themselves.

    The spread is the median absolute deviation, which a few slow steps do not raise; 1.4826 and 1.2533 are its factors
    for normally distributed times.
    """
    if len(times) < 2:
        return 0.0
    middle = statistics.median(times)
    deviation = statistics.median(abs(one - middle) for one in times)
    return 1.4826 * 1.2533 * deviation / math.sqrt(len(times)) / middle if middle else 0.0


def _time(points: Sequence[Point], golden: Sequence[Point], limits: Limits) -> GateResult:
    ours, theirs = _steady(points, limits), _steady(golden, limits)
    if not theirs:
        return GateResult("step time", True, "the baseline has no times: not checked")
    if not ours:
        return GateResult("step time", False, "the run has no times")
    now, before = statistics.median(ours), statistics.median(theirs)
    slower = (now - before) / before
    noise = 3 * math.hypot(noise_of(ours), noise_of(theirs))
    text = f"{now:.4g} s, baseline {before:.4g} s: {slower:+.2%}, noise {noise:.2%}, {limits.step_time:.0%} may be"
    # As slow as the limit within the noise, and slower than noise explains.
    failed = slower + noise >= limits.step_time - 1e-9 and slower > noise
    return GateResult("step time", not failed, text)


def _memory(points: Sequence[Point], golden: Sequence[Point], limits: Limits) -> GateResult:
    ours = max((point.memory_bytes for point in points if point.memory_bytes is not None), default=None)
    theirs = max((point.memory_bytes for point in golden if point.memory_bytes is not None), default=None)
    if theirs is None:
        return GateResult("memory", True, "the baseline has no memory: not checked")
    if ours is None:
        return GateResult("memory", False, "the run has recorded no memory")
    more = (ours - theirs) / theirs
    text = f"{ours / 1e9:.3f} GB, baseline {theirs / 1e9:.3f} GB: {more:+.2%}, {limits.memory:.0%} may be"
    return GateResult("memory", more <= limits.memory, text)


def baseline_text(side: Side) -> str:
    """Return a baseline of a run as TOML."""
    lines = [f"# Made of {side.name}; `launcher compare RUN --gate THIS` compares with it.", "", "[limits]"]
    lines += [f"{one.name} = {one.default}" for one in fields(Limits)]
    for point in side.points:
        lines += ["", "[[iterations]]", f"iteration = {point.iteration}"]
        for name in ("loss", "seconds", "memory_bytes"):
            value = getattr(point, name)
            if value is not None:
                lines.append(f"{name} = {value!r}")
    return "\n".join(lines) + "\n"
