"""Which point is the best, and how sure that is: comparisons of points by repeated runs.

A run gives one reward; the spread that counts is that between runs of the same point, which one run cannot show.
Rewards of one sign are compared by their logarithms, so that a difference is a percentage.

The best point is named only if it is better than every other one by a one-sided Welch test. The chance to name a wrong
one is at most `ALPHA`: it is divided by the number of other points (any of them may look best by chance) and by the
number of looks at growing data (Bonferroni). Points with few runs have at least the spread of all points together,
because two runs may agree by chance.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

ALPHA = 0.05
"""The largest probability of naming a point that is not the best one."""

EQUAL_PERCENT = 0.5
"""Points whose difference surely lies within this count as equal: no further run would be worth its time."""

_ENOUGH = 4
"""From so many runs on the spread of a point is its own; before that it is at least that of all points together."""

_NOISY = 3.0
"""A point is noisy if its spread is so many times the usual one."""

Verdict = Literal["best", "equal", "undecided", "single", "none"]
"""`best`: one point is better than all others. `equal`: several are, and differ by less than EQUAL_PERCENT among each
other. `undecided`: several may be. `single`: there is one run of a point, so nothing is known. `none`: no result."""


@dataclass(frozen=True)
class Standing:
    """How a point stands against the one with the best mean."""

    name: str
    runs: int
    median: float
    """Of the rewards of its runs."""
    spread_percent: float | None
    """Standard deviation between its runs; None for one run."""
    behind_percent: float
    """How much its mean is worse than the best one; 0 for that one."""
    margin_percent: float | None
    """Half the width of the interval in which that difference surely lies; None where it is unknown."""
    p_value: float | None
    """The probability of such a difference between equal points; None for the best one and without spreads."""
    contender: bool
    """Whether it may be the best."""
    noisy: bool = False


@dataclass(frozen=True)
class Ranking:
    """Which point is the best, as far as the runs show."""

    verdict: Verdict
    standings: tuple[Standing, ...]
    """The best mean first."""
    sentence: str


def compare(rewards: Mapping[str, Sequence[float]], *, looks: int = 1) -> Ranking:
    """Compare points by the rewards of their runs, the larger the better.

    `looks` is how often the same sweep may be compared while runs are added: once for a fixed number of repeats.
    """
    given = {name: [*values] for name, values in rewards.items() if values}
    if not given:
        return Ranking("none", (), "no point has finished")
    scores, logarithmic = _scores(given)
    means = {name: statistics.fmean(values) for name, values in scores.items()}
    order = sorted(given, key=lambda name: -means[name])
    best = order[0]
    variances = _variances(scores)
    level = ALPHA / (max(1, len(order) - 1) * looks)
    scale = 100.0 if logarithmic else 100.0 / (abs(means[best]) or 1.0)
    noisy = _noisy(scores)
    standings = list[Standing]()
    for name in order:
        difference = means[best] - means[name]
        margin, p_value = None, None
        if name != best and variances is not None:
            p_value, margin = _welch(difference, variances[best], variances[name], level)
        own = statistics.stdev(scores[name]) if len(scores[name]) > 1 else None
        standings.append(
            Standing(
                name,
                len(given[name]),
                statistics.median(given[name]),
                None if own is None else own * scale,
                difference * scale,
                None if margin is None else margin * scale,
                p_value,
                contender=name == best or p_value is None or p_value > level,
                noisy=name in noisy,
            )
        )
    verdict = _verdict(standings, variances is not None)
    return Ranking(verdict, tuple(standings), "; ".join([_sentence(verdict, standings), *_noise(standings)]))


def wants_repeat(comparison: Ranking, max_repeats: int) -> tuple[str, ...]:
    """Return the points of which another run may decide the comparison; none once it is decided or runs are used up."""
    if comparison.verdict not in ("undecided", "single"):
        return ()
    return tuple(each.name for each in comparison.standings if each.contender and each.runs < max_repeats)


def _verdict(standings: Sequence[Standing], known: bool) -> Verdict:
    others = [each for each in standings[1:] if each.contender]
    if not known or standings[0].runs < 2 or any(each.runs < 2 for each in others):
        return "single"
    if not others:
        return "best"
    bound = [each.behind_percent + each.margin_percent for each in others if each.margin_percent is not None]
    return "equal" if len(bound) == len(others) and max(bound) <= EQUAL_PERCENT else "undecided"


def _noise(standings: Sequence[Standing]) -> list[str]:
    return [f"{each.name} is noisy: its runs differ by {each.spread_percent:.1f} %" for each in standings if each.noisy]


def _sentence(verdict: Verdict, standings: Sequence[Standing]) -> str:
    best, others = standings[0], [each for each in standings[1:] if each.contender]
    if verdict == "best":
        if len(standings) == 1:
            return f"{best.name} is the only point that has finished"
        second = standings[1]
        lead = f"{second.behind_percent:.2f} % (± {second.margin_percent or 0:.2f} %)"
        return f"{best.name} is the best: {lead} better than the next; the chance of error is at most {ALPHA:.0%}"
    if verdict == "single":
        return (
            f"{best.name} has the best value, but points were run once, and how much runs of one point differ is "
            "unknown: --repeat auto repeats those that may be the best"
        )
    named = ", ".join([best.name, *(each.name for each in others)][:5]) + (", ..." if len(others) > 4 else "")
    if verdict == "equal":
        return f"{len(others) + 1} points are equal within {EQUAL_PERCENT:g} %: {named}"
    return f"{len(others) + 1} points may be the best, and their runs do not tell them apart: {named}"


def _scores(given: Mapping[str, Sequence[float]]) -> tuple[dict[str, list[float]], bool]:
    """Return rewards on the scale on which they are compared, the larger the better, and whether it is logarithmic."""
    values = [value for each in given.values() for value in each]
    if all(value > 0 for value in values):
        return {name: [math.log(value) for value in each] for name, each in given.items()}, True
    if all(value < 0 for value in values):
        return {name: [-math.log(-value) for value in each] for name, each in given.items()}, True
    return {name: [*each] for name, each in given.items()}, False


@dataclass(frozen=True)
class _OfMean:
    """The variance of a point's mean, and its degrees of freedom."""

    variance: float
    freedom: int


def _variances(scores: Mapping[str, Sequence[float]]) -> dict[str, _OfMean] | None:
    """Return how far each point's mean may be off; None where every point was run once."""
    repeated = {name: values for name, values in scores.items() if len(values) > 1}
    if not repeated:
        return None
    freedom = sum(len(values) - 1 for values in repeated.values())
    pooled = sum(statistics.variance(values) * (len(values) - 1) for values in repeated.values()) / freedom
    found = dict[str, _OfMean]()
    for name, values in scores.items():
        own = statistics.variance(values) if len(values) > 1 else 0.0
        if len(values) < _ENOUGH and own <= pooled:
            found[name] = _OfMean(pooled / len(values), freedom)
        else:
            found[name] = _OfMean(own / len(values), len(values) - 1)
    return found


def _noisy(scores: Mapping[str, Sequence[float]]) -> set[str]:
    spreads = {name: statistics.stdev(values) for name, values in scores.items() if len(values) > 2}
    if len(spreads) < 3:
        return set()
    usual = statistics.median(spreads.values())
    return {name for name, spread in spreads.items() if usual > 0 and spread > _NOISY * usual}


def _welch(difference: float, first: _OfMean, second: _OfMean, level: float) -> tuple[float, float]:
    """Return the one-sided probability of a difference this large by chance, and its margin at a level."""
    total = first.variance + second.variance
    error = math.sqrt(total)
    if error == 0.0:  # exactly equal runs
        return (0.5 if difference == 0 else 0.0), 0.0
    freedom = total**2 / sum(each.variance**2 / each.freedom for each in (first, second))
    return t_tail(difference / error, freedom), t_quantile(level, freedom) * error


def t_tail(value: float, freedom: float) -> float:
    """Return the probability that a variable of Student's distribution exceeds `value`."""
    share = freedom / (freedom + value * value)
    half = 0.5 * _incomplete_beta(freedom / 2, 0.5, share)
    return half if value >= 0 else 1 - half


def t_quantile(tail: float, freedom: float) -> float:
    """Return the value that a variable of Student's distribution exceeds with probability `tail`, below one half."""
    low, high = 0.0, 2.0
    while t_tail(high, freedom) > tail and high < 1e12:
        high *= 2
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > tail else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _incomplete_beta(b, a, 1.0 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    # Evaluated by Lentz's method; `tiny` stands for a denominator of zero.
    tiny = 1e-300
    total = numerator = 1.0
    denominator = 0.0
    for step in range(400):
        half = step // 2
        if step == 0:
            term = 1.0
        elif step % 2 == 0:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        else:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        denominator = 1.0 + term * denominator
        denominator = 1.0 / (denominator if abs(denominator) > tiny else tiny)
        numerator = 1.0 + term / (numerator if abs(numerator) > tiny else tiny)
        total *= numerator * denominator
        if abs(numerator * denominator - 1.0) < 1e-14:
            break
    return front * (total - 1.0)
