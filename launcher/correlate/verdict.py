"""Whether two trainings are the same: a pure function of what both have recorded."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from launcher.correlate.history import Point
from launcher.correlate.settings import Difference

State = Literal["agree", "agree within tolerance", "diverged", "undecided", "not comparable"]

LEAST_TRAINED = 5
"""So many iterations must have changed the weights before two trainings can be said to agree."""
LEAST_MOVE = 1e-3
"""So far, relative to its first value, the loss must have moved."""


@dataclass(frozen=True)
class Divergence:
    """The first iteration that differs, and by how much."""

    iteration: int
    metric: str
    left: str
    right: str
    difference: float


@dataclass(frozen=True)
class Agreement:
    """What can be said of two trainings."""

    state: State
    sentence: str
    first: Divergence | None = None
    compared: tuple[int, int] | None = None
    """The first and the last iteration that both have."""
    largest: float | None = None
    """The largest difference of the losses."""
    differences: tuple[Difference, ...] = ()
    stage: str | None = None
    """The first stage that differs, by probes: data, initialisation, generator, forward, backward, optimizer, log."""
    cause: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def is_agreement(self) -> bool:
        """Return whether the trainings agree."""
        return self.state in ("agree", "agree within tolerance")


def judge(
    left: Sequence[Point],
    right: Sequence[Point],
    *,
    differences: Sequence[Difference] = (),
    tolerance: float = 0.0,
    not_comparable: str | None = None,
    stage: tuple[str, str] | None = None,
) -> Agreement:
    """Compare iteration by iteration. `tolerance` is the relative difference of losses that counts as none.

    `not_comparable` is the reason why even equal programs would differ; `stage` what probes have found first.
    """
    differences = tuple(differences)
    pairs = _pairs(left, right)
    if not pairs:
        return Agreement("undecided", "the two have no iteration with a loss in common", differences=differences)
    compared = (pairs[0][0].iteration, pairs[-1][0].iteration)
    largest = max(_distance(one.loss, two.loss) for one, two in pairs)
    first = next((found for one, two in pairs if (found := _divergence(one, two, tolerance))), None)
    common: dict[str, Any] = {"compared": compared, "largest": largest, "differences": differences}
    if stage is not None:
        common |= {"stage": stage[0], "cause": stage[1]}
    if first is not None and not_comparable:
        return Agreement("not comparable", not_comparable, first=first, **common)
    if first is not None:
        return Agreement("diverged", _diverged(first, differences, stage), first=first, **common)
    if not math.isfinite(tolerance):
        text = "repeats of one training differ without bound, as a loss of some is not finite"
        return Agreement("undecided", text, **common)
    reason = _too_little(pairs)
    if reason:
        return Agreement("undecided", f"equal from iteration {compared[0]} to {compared[1]}, but {reason}", **common)
    span = f"from iteration {compared[0]} to {compared[1]}{_longer(left, right, compared[1])}"
    exact = all(one.printed_loss == two.printed_loss for one, two in pairs)
    if exact:
        return Agreement("agree", f"the losses agree in all printed digits {span}", **common)
    text = f"the losses agree {span} within {tolerance:.1e}; the largest difference is {largest:.1e}"
    return Agreement("agree within tolerance", text, **common)


def _longer(left: Sequence[Point], right: Sequence[Point], last: int) -> str:
    """Return which side has further iterations, which nothing is known to compare with."""
    ends = {name: max(point.iteration for point in side) for name, side in (("left", left), ("right", right))}
    more = [f"the {name} side goes on to {end}" for name, end in ends.items() if end > last]
    return f" ({', '.join(more)})" if more else ""


def _pairs(left: Sequence[Point], right: Sequence[Point]) -> list[tuple[Point, Point]]:
    others = {point.iteration: point for point in right}
    return [
        (point, others[point.iteration])
        for point in left
        if point.iteration in others and point.loss is not None and others[point.iteration].loss is not None
    ]


def _distance(left: float | None, right: float | None) -> float:
    if left is None or right is None:
        return 0.0 if left is right else math.inf
    if left == right or (math.isnan(left) and math.isnan(right)):
        return 0.0
    return abs(left - right) if math.isfinite(left) and math.isfinite(right) else math.inf


def _divergence(left: Point, right: Point, tolerance: float) -> Divergence | None:
    if left.loss is None or right.loss is None:
        return None
    apart = _distance(left.loss, right.loss)
    allowed = tolerance * max(abs(left.loss), abs(right.loss))
    if left.printed_loss != right.printed_loss and not (apart <= allowed and math.isfinite(apart)):
        return Divergence(left.iteration, "loss", left.printed_loss, right.printed_loss, right.loss - left.loss)
    if left.grad_norm is None or right.grad_norm is None or tolerance:
        return None
    # Rounding at the last printed digit alone is not a difference.
    if left.printed_norm != right.printed_norm and abs(left.grad_norm - right.grad_norm) > 1e-3:
        apart = right.grad_norm - left.grad_norm
        return Divergence(left.iteration, "gradient norm", left.printed_norm, right.printed_norm, apart)
    return None


def _diverged(first: Divergence, differences: Sequence[Difference], stage: tuple[str, str] | None) -> str:
    text = (
        f"the first difference is at iteration {first.iteration}: {first.metric} {first.left} and {first.right} "
        f"({first.difference:+.3g})"
    )
    if stage is not None:
        text += f"; the first stage that differs is {stage[0]}: {stage[1]}"
    named = [one.key for one in differences if one.numbers]
    if named:
        return f"{text}; settings that differ: {', '.join(named)}"
    return text if stage else f"{text}; no setting that is compared differs"


def _too_little(pairs: Sequence[tuple[Point, Point]]) -> str | None:
    """Return why equal losses do not show that the trainings agree."""
    trained = sum(1 for point, _ in pairs if point.next_rate is not None and point.next_rate > 0)
    # The rate at a line is that of the next iteration, and the last line's is not used any more.
    trained -= 1 if pairs[-1][0].next_rate else 0
    if trained < LEAST_TRAINED:
        return f"only {max(trained, 0)} of them were computed with weights that a learning rate above 0 has changed"
    losses = [point.loss for point, _ in pairs if point.loss is not None]
    if not all(math.isfinite(loss) for loss in losses):
        return "the loss is not finite"
    if max(losses) - min(losses) <= LEAST_MOVE * abs(losses[0]):
        return "the loss did not move"
    return None


def noise(repeats: Sequence[Sequence[Point]]) -> float:
    """Return the largest relative difference of a loss between repeats of one training: its noise floor."""
    worst = 0.0
    for index, one in enumerate(repeats):
        for other in repeats[index + 1 :]:
            for left, right in _pairs(one, other):
                apart = _distance(left.loss, right.loss)
                scale = max(abs(left.loss or 0), abs(right.loss or 0)) or 1.0
                worst = max(worst, apart / scale if math.isfinite(apart) and apart else apart)
    return worst


def as_object(verdict: Agreement) -> Mapping[str, Any]:
    """Return the verdict as JSON has it."""
    first = verdict.first
    return {
        "state": verdict.state,
        "sentence": verdict.sentence,
        "agree": verdict.is_agreement,
        "first": {**vars(first), "difference": number(first.difference)} if first else None,
        "compared": list(verdict.compared) if verdict.compared else None,
        "largest_difference": number(verdict.largest),
        "stage": verdict.stage,
        "cause": verdict.cause,
        "settings": [
            {"key": one.key, "left": one.left, "right": one.right, "numbers": one.numbers}
            for one in verdict.differences
        ],
        "notes": list(verdict.notes),
    }


def number(value: float | None) -> float | str | None:
    """Return a number as JSON can hold it: `nan` and `inf` as text."""
    return value if value is None or math.isfinite(value) else str(value)


def median(values: Sequence[float | None]) -> float | None:
    """Return the median of the values that are known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
