"""Rewards: what a measured value is worth. The larger the better."""

import math
from collections.abc import Callable, Mapping, Sequence

from launcher._util.errors import ConfigError
from launcher.contract.values import nearest

Reward = Callable[[Sequence[float]], float]
"""A function of the observed metrics, in the order in which the sweep names them."""


def inverse(observed: Sequence[float]) -> float:
    """Return 1 over the first metric; 0 where that is 0. The smaller the metric, the better."""
    return 1.0 / observed[0] if observed[0] else 0.0


def negative(observed: Sequence[float]) -> float:
    """Return the first metric with the other sign. The smaller the metric, the better."""
    return -observed[0]


def identity(observed: Sequence[float]) -> float:
    """Return the first metric itself. The larger the metric, the better."""
    return observed[0]


REWARDS: Mapping[str, Reward] = {"inverse": inverse, "negative": negative, "identity": identity}


def reward_of(name: str) -> Reward:
    """Return the reward function of this name: one of REWARDS or `module:function`. Raises ConfigError."""
    if name in REWARDS:
        return REWARDS[name]
    module, separator, function = name.partition(":")
    if not separator:
        near = nearest(name, REWARDS, count=1)
        raise ConfigError(
            f"there is no reward {name!r}",
            hint=f"{f'Did you mean {near[0]}? ' if near else ''}Known: {', '.join(REWARDS)}, or MODULE:FUNCTION.",
        )
    import importlib

    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the reward {name!r} cannot be loaded: {error}") from None
    if not callable(found):
        raise ConfigError(f"the reward {name!r} is not a function")
    return lambda observed: _number(found(observed), name)


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"the reward {name!r} returned {value!r}, which is not a finite number")
    return float(value)
