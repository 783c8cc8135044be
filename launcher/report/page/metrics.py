"""The metrics of an attempt over its iterations, from metrics.jsonl, thinned while they are read.

A training may have millions of iterations and a plot a thousand pixels. Successive lines are gathered into stretches of
equal length, of which the lowest, the highest and the mean value of each metric are kept: no spike is lost, and the
memory that is needed does not grow with the file.
"""

import io
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar

from launcher.contract.files import open_regular, parse_lines
from launcher.rundir import Attempt
from launcher.watch.progress_state import number

if TYPE_CHECKING:
    import msgspec

LIMIT = 1000
"""Limit of stretches in one plot, over all attempts; more are indistinguishable on a screen."""

_CHUNK = 1 << 20
Values: TypeAlias = Sequence[float | None]


@dataclass(frozen=True)
class Curve:
    """One metric of one attempt, a value for each stretch; None where no line of the stretch has one.

    `not_finite` holds how often its value was not finite (NaN), and `first_not_finite` in which iteration first.
    """

    mean: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    count: int = 0
    lowest: tuple[float, int] | None = None
    """The lowest value and its iteration."""
    highest: tuple[float, int] | None = None
    last: tuple[float, int] | None = None
    not_finite: int = 0
    first_not_finite: int | None = None

    @property
    def median(self) -> float | None:
        """Return the median of the stretches' means."""
        known = [value for value in self.mean if value is not None]
        return statistics.median(known) if known else None


@dataclass(frozen=True)
class Curves:
    """The metrics of one attempt; of each stretch its last iteration, and what had passed at its end.

    `tokens` are those since the attempt began, `times` in seconds since the epoch; None where that is unknown.
    """

    attempt: str
    width: int = 1
    """How many lines a stretch has."""
    lines: int = 0
    first: int | None = None
    """The first iteration."""
    iterations: tuple[int, ...] = ()
    tokens: tuple[float | None, ...] = ()
    times: tuple[float | None, ...] = ()
    of: Mapping[str, Curve] = field(default_factory=dict)


class _Gathered:
    """One metric while it is read."""

    def __init__(self) -> None:
        self.low: list[float | None] = []
        self.high: list[float | None] = []
        self.sums: list[float] = []
        self.counts: list[int] = []
        self.lowest: tuple[float, int] | None = None
        self.highest: tuple[float, int] | None = None
        self.last: tuple[float, int] | None = None
        self.not_finite = 0
        self.first_not_finite: int | None = None

    def open(self) -> None:
        """Begin a stretch."""
        self.low.append(None)
        self.high.append(None)
        self.sums.append(0.0)
        self.counts.append(0)

    def add(self, values: Values, iterations: Sequence[int], *, complete: bool) -> None:
        """Add values to the last stretch; `complete` says that none of them is None."""
        known = values if complete else [value for value in values if value is not None]
        if not known:
            return
        low, high = min(known), max(known)  # type: ignore[type-var]
        assert low is not None and high is not None  # noqa: S101 - None was left out
        before_low, before_high = self.low[-1], self.high[-1]
        self.low[-1] = low if before_low is None or low < before_low else before_low
        self.high[-1] = high if before_high is None or high > before_high else before_high
        self.sums[-1] += sum(known)  # type: ignore[arg-type]
        self.counts[-1] += len(known)
        if self.lowest is None or low < self.lowest[0]:
            self.lowest = (low, iterations[values.index(low)])
        if self.highest is None or high > self.highest[0]:
            self.highest = (high, iterations[values.index(high)])
        at = len(values) - 1
        while values[at] is None:
            at -= 1
        self.last = (values[at] or 0.0, iterations[at])

    def lost(self, iteration: int) -> None:
        """Note a value that was not finite."""
        self.not_finite += 1
        self.first_not_finite = iteration if self.first_not_finite is None else self.first_not_finite

    def halve(self) -> None:
        """Join each two stretches."""
        self.low = [_least(pair) for pair in _pairs(self.low)]
        self.high = [_most(pair) for pair in _pairs(self.high)]
        self.sums = [sum(pair) for pair in _pairs(self.sums)]
        self.counts = [sum(pair) for pair in _pairs(self.counts)]

    def curve(self) -> Curve:
        """Return what was read."""
        means = (total / count if count else None for total, count in zip(self.sums, self.counts, strict=True))
        return Curve(
            tuple(means),
            tuple(self.low),
            tuple(self.high),
            sum(self.counts),
            self.lowest,
            self.highest,
            self.last,
            self.not_finite,
            self.first_not_finite,
        )


T = TypeVar("T")


def _pairs(values: Sequence[T]) -> Iterator[Sequence[T]]:
    return (values[at : at + 2] for at in range(0, len(values), 2))


def _least(values: Values) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _most(values: Values) -> float | None:
    return max((value for value in values if value is not None), default=None)


class Stretches:
    """The lines of an attempt while they are read, gathered into at most twice as many stretches as are wanted."""

    def __init__(self, names: Sequence[str], limit: int = LIMIT) -> None:
        self.width = 1
        self.lines = 0
        self.first: int | None = None
        self.begin: float | None = None
        """The time of the first line."""
        self._limit = limit
        self._sizes: list[int] = []
        self._iterations: list[int] = []
        self._tokens: list[float | None] = []
        self._times: list[float | None] = []
        self._passed: float | None = 0.0
        self._metrics = {name: _Gathered() for name in names}

    def expect(self, lines: int) -> None:
        """Begin with stretches for about as many lines, which is faster than joining short ones."""
        while self.width * 2 * self._limit < lines:
            self.width *= 2

    def add(self, columns: Mapping[str, Values], lost: Sequence[tuple[str, int]] = ()) -> None:
        """Add lines by their columns, of equal length; `lost` are the values that were not finite."""
        iterations = list(map(int, columns["iteration"]))  # type: ignore[arg-type]
        if not iterations:
            return
        if self.first is None:
            self.first, self.begin = iterations[0], columns["time"][0]
        complete = {name: None not in columns[name] for name in self._metrics}
        begin = 0
        while begin < len(iterations):
            if not self._sizes or self._sizes[-1] == self.width:
                self._open()
            end = min(len(iterations), begin + self.width - self._sizes[-1])
            self._extend(columns, begin, end, iterations, complete)
            begin = end
            if len(self._sizes) >= 2 * self._limit and self._sizes[-1] == self.width:
                self._halve()
        for name, iteration in lost:
            if name in self._metrics:
                self._metrics[name].lost(iteration)
        self.lines += len(iterations)

    def _open(self) -> None:
        self._sizes.append(0)
        self._iterations.append(0)
        self._tokens.append(None)
        self._times.append(None)
        for metric in self._metrics.values():
            metric.open()

    def _extend(
        self,
        columns: Mapping[str, Values],
        begin: int,
        end: int,
        iterations: Sequence[int],
        complete: Mapping[str, bool],
    ) -> None:
        self._sizes[-1] += end - begin
        self._iterations[-1] = iterations[end - 1]
        self._times[-1] = columns["time"][end - 1]
        tokens = columns["tokens"][begin:end]
        if self._passed is not None:
            self._passed = None if None in tokens else self._passed + sum(tokens)  # type: ignore[arg-type]
        self._tokens[-1] = self._passed
        for name, metric in self._metrics.items():
            metric.add(columns[name][begin:end], iterations[begin:end], complete=complete[name])

    def _halve(self) -> None:
        self.width *= 2
        self._sizes = [sum(pair) for pair in _pairs(self._sizes)]
        self._iterations = [pair[-1] for pair in _pairs(self._iterations)]
        self._tokens = [pair[-1] for pair in _pairs(self._tokens)]
        self._times = [pair[-1] for pair in _pairs(self._times)]
        for metric in self._metrics.values():
            metric.halve()

    def thin(self, limit: int) -> None:
        """Join stretches until there are at most `limit`."""
        while len(self._sizes) > max(1, limit):
            self._halve()

    def curves(self, attempt: str) -> Curves:
        """Return what was read."""
        return Curves(
            attempt,
            self.width,
            self.lines,
            self.first,
            tuple(self._iterations),
            tuple(self._tokens),
            tuple(self._times),
            {name: metric.curve() for name, metric in self._metrics.items()},
        )


def read_stretches(attempt: Attempt, names: Sequence[str], limit: int = LIMIT) -> Stretches:
    """Read metrics of an attempt into at most `limit` stretches.

    A missing file has no values; incomplete lines are left out.
    """
    stretches = Stretches(names, limit)
    wanted = ("iteration", "tokens", "time", *names)
    opened: BinaryIO
    try:
        opened = open_regular(attempt.metrics)
        size = os.fstat(opened.fileno()).st_size
    except OSError:  # there is none yet, or it is not a file
        opened, size = io.BytesIO(), 0
    with opened:
        for chunk in _chunks(opened):
            if not stretches.lines:
                stretches.expect(size * (chunk.count(b"\n") + 1) // len(chunk))
            stretches.add(*_columns(chunk, wanted))
    stretches.thin(limit)
    return stretches


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield whole lines, about a MiB of them at a time; the last one may be incomplete."""
    rest = b""
    while more := file.read(_CHUNK):
        whole, separator, after = more.rpartition(b"\n")
        if not separator:
            rest += more
            continue
        chunk, rest = rest + whole, after
        yield chunk
    if rest:
        yield rest


def _columns(chunk: bytes, wanted: Sequence[str]) -> tuple[dict[str, Values], list[tuple[str, int]]]:
    import msgspec

    try:
        lines = _decoder(tuple(wanted)).decode_lines(chunk)
    except msgspec.MsgspecError:  # cut short, or in another form: one by one
        return _parsed(chunk, wanted)
    if any(each.not_finite for each in lines):
        return _parsed(chunk, wanted)
    return {name: [getattr(each, name) for each in lines] for name in wanted}, []


@cache
def _decoder(wanted: tuple[str, ...]) -> "msgspec.json.Decoder[Any]":
    """Return a decoder for lines as the job writes them; it is some times faster than a general one."""
    import msgspec

    fields: list[Any] = [(name, float | None, None) for name in wanted if name != "iteration"]
    line = msgspec.defstruct("Line", [("iteration", int), *fields, ("not_finite", list[str] | None, None)], gc=False)
    return msgspec.json.Decoder(line)


def _parsed(chunk: bytes, wanted: Sequence[str]) -> tuple[dict[str, Values], list[tuple[str, int]]]:
    """Return the columns of lines in whatever form, and the values that were not finite."""
    columns: dict[str, list[float | None]] = {name: [] for name in wanted}
    lost: list[tuple[str, int]] = []
    for line in parse_lines(chunk.decode("utf-8", errors="replace").splitlines()):
        iteration = number(line, "iteration")
        if iteration is None:
            continue
        named = line.get("not_finite")
        for name in wanted:
            value = number(line, name)
            columns[name].append(None if value is None else float(value))
            if value is None and (isinstance(line.get(name), float) or (isinstance(named, list) and name in named)):
                lost.append((name, int(iteration)))
    return dict(columns), lost
