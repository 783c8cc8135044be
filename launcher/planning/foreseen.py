"""What the checked configuration lets a plan foresee: what cannot work, what looks wrong, how much memory it takes."""

from dataclasses import dataclass
from typing import Any

from launcher.planning import memory, preflight
from launcher.planning.inputs import Given
from launcher.planning.model import Geometry
from launcher.planning.overrides import known_values


@dataclass(frozen=True)
class Foreseen:
    """The findings, as the plan needs them."""

    memory: dict[str, Any] | None
    warnings: tuple[str, ...]
    unchecked: tuple[str, ...]


def look_ahead(given: Given, shape: Geometry) -> Foreseen:
    """All of it. Raises RequestError for what cannot work."""
    found = preflight.require(preflight.findings(_seen(given, shape)))
    ahead = _memory(given, shape)
    return Foreseen(ahead.memory, (*found, *ahead.warnings), ahead.unchecked)


def _seen(given: Given, shape: Geometry) -> preflight.Seen:
    overridden = known_values(given.overrides)
    # A checked configuration holds the overrides, and what Bridge made of them.
    values = {**given.recipe_values, **overridden, **preflight.flattened(given.resolved)}
    if given.resolved is not None:
        values |= {f"checkpoint.{name}": overridden.get(f"checkpoint.{name}") for name in ("save", "load")}
    return preflight.Seen(
        values=values,
        world=shape.world_size,
        nodes=shape.nodes,
        complete=given.resolved is not None,
        gpu=given.cluster.gpu,
        gpus=given.cluster.device != "cpu",
        overridden=frozenset(override.key for override in given.overrides),
        files=given.files,
        packages=given.image.packages if given.image else None,
    )


def _memory(given: Given, shape: Geometry) -> Foreseen:
    """Without a checked configuration nothing is guessed."""
    if given.resolved is None:
        return Foreseen(None, (), ("memory: the recipe decides",))
    if given.cluster.device == "cpu":
        return Foreseen(None, (), ())
    found, reason = memory.look(given.resolved, shape.world_size)
    if found is None:
        return Foreseen(None, (), (f"memory: {reason}",))
    return Foreseen(found.to_dict(), memory.warnings(found, given.resolved, given.cluster.gpu), ())
