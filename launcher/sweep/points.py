"""Points of a sweep: what varies, one combination of values, and the name that follows from its values alone."""

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

from launcher._util.errors import ConfigError

Value: TypeAlias = bool | int | float | str | tuple["Value", ...] | None
"""A value of a point: what TOML has, lists as tuples. 1 and 1.0 are two values, 1 and "1" are one."""

Constraint: TypeAlias = Callable[["SweepPoint"], str | None]
"""Return why a point cannot be run; None where nothing speaks against it."""

_NAME_DIGITS = 12


@dataclass(frozen=True)
class Range:
    """The values between two numbers, both included; `log` spreads them evenly over orders of magnitude."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def at(self, share: float) -> Value:
        """Return the value at this share, 0 to 1, of the way from `low` to `high`."""
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        value = min(max(value, self.low), self.high)
        return min(int(self.high), max(int(self.low), round(value))) if self.integer else value


@dataclass(frozen=True)
class Axis:
    """What varies, and over which values. `key` names it in points, tables and files."""

    key: str
    values: tuple[Value, ...] | Range

    @property
    def choices(self) -> tuple[Value, ...]:
        """Return the values one by one. Raises ConfigError for a range."""
        if isinstance(self.values, Range):
            raise ConfigError(
                f"{self.key} is a range, of which only the strategies random and agent can draw",
                hint="List its values, or choose another strategy.",
            )
        return self.values


@dataclass(frozen=True)
class SweepPoint:
    """One combination of values, by the key of their axis, in the order of the axes."""

    values: tuple[tuple[str, Value], ...]

    @classmethod
    def of(cls, values: Mapping[str, object]) -> "SweepPoint":
        """Return the point with these values; lists become tuples. Raises ConfigError for a value of another kind."""
        return cls(tuple((key, plain_value(value, key)) for key, value in values.items()))

    @property
    def name(self) -> str:
        """Return the point's name: a digest of its values as assignments state them, whatever their order."""
        content = json.dumps(sorted((key, value_text(value)) for key, value in self.values))
        return hashlib.sha256(content.encode()).hexdigest()[:_NAME_DIGITS]

    @property
    def label(self) -> str:
        """Return the values as people read them: `model.hidden_size=64 nodes=2`."""
        return " ".join(f"{key}={value_text(value)}" for key, value in self.values)

    def to_dict(self) -> dict[str, Value]:
        """Return the values by key."""
        return dict(self.values)

    def __getitem__(self, key: str) -> Value:
        return self.to_dict()[key]


def plain_value(value: object, key: str) -> Value:
    """Return a value as a point holds it. Raises ConfigError for what no assignment can state."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}: {value} is not a finite number")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return tuple(plain_value(each, key) for each in value)
    raise ConfigError(f"{key}: a value is a number, a text, true, false or a list, not {type(value).__name__}")


def value_text(value: Value) -> str:
    """Return a value as an assignment states it: `true`, `null`, `[1,2]`, `1e-4`, or the text itself."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return f"[{','.join(map(value_text, value))}]"
    return json.dumps(value)


def grid(axes: Sequence[Axis]) -> Iterator[SweepPoint]:
    """Yield every combination once; the last axis varies fastest. Raises ConfigError for an axis that is a range."""
    keys = [axis.key for axis in axes]
    seen = set[str]()
    for values in product(*(axis.choices for axis in axes)):
        point = SweepPoint(tuple(zip(keys, values, strict=True)))
        if point.name not in seen:
            seen.add(point.name)
            yield point


@dataclass(frozen=True)
class Draw:
    """A value that the environment draws for each trial, whatever the strategy proposes (CloudAI's env_params)."""

    key: str
    values: tuple[Value, ...]
    weights: tuple[float, ...] | None = None
    """The probability of each value; None: all alike."""

    def of_trial(self, trial: int, seed: int) -> Value:
        """Return the value of this trial: the same for the same seed, key and trial number, in any order of calls."""
        generator = random.Random(f"{seed}:{self.key}:{trial}")  # noqa: S311 - reproducible, not secret
        if self.weights is None:
            return generator.choice(self.values)
        return generator.choices(self.values, weights=self.weights)[0]
