"""What the checked configuration lets a plan foresee: what cannot work, what looks wrong, how much memory it takes."""

from dataclasses import dataclass
from typing import Any

from launcher.planning import memory, preflight
from launcher.planning.inputs import PlanInputs
from launcher.planning.model import Geometry
from launcher.planning.overrides import known_values


@dataclass(frozen=True)
class PreflightResult:
    """The findings, as the plan needs them."""

    memory: dict[str, Any] | None
    warnings: tuple[str, ...]
    unchecked: tuple[str, ...]


def run_preflight(inputs: PlanInputs, shape: Geometry) -> PreflightResult:
    """All of it. Raises RequestError for what cannot work."""
    found = preflight.require(preflight.findings(_config_view(inputs, shape)))
    ahead = _memory(inputs, shape)
    return PreflightResult(ahead.memory, (*found, *ahead.warnings), ahead.unchecked)


def _config_view(inputs: PlanInputs, shape: Geometry) -> preflight.ConfigView:
    overridden = known_values(inputs.overrides)
    # A checked configuration holds the overrides, and what Bridge made of them.
    values = {**inputs.recipe_values, **overridden, **preflight.flattened(inputs.resolved)}
    if inputs.resolved is not None:
        values |= {f"checkpoint.{name}": overridden.get(f"checkpoint.{name}") for name in ("save", "load")}
    return preflight.ConfigView(
        values=values,
        world_size=shape.world_size,
        nodes=shape.nodes,
        complete=inputs.resolved is not None,
        gpu=inputs.cluster.gpu,
        gpus=inputs.cluster.device != "cpu",
        overridden=frozenset(override.key for override in inputs.overrides),
        files=inputs.files,
        packages=inputs.image.packages if inputs.image else None,
    )


def _memory(inputs: PlanInputs, shape: Geometry) -> PreflightResult:
    """Without a checked configuration nothing is guessed."""
    if inputs.resolved is None:
        return PreflightResult(None, (), ("memory: the recipe decides",))
    if inputs.cluster.device == "cpu":
        return PreflightResult(None, (), ())
    found, reason = memory.try_estimate(inputs.resolved, shape.world_size)
    if found is None:
        return PreflightResult(None, (), (f"memory: {reason}",))
    return PreflightResult(found.to_dict(), memory.warnings(found, inputs.resolved, inputs.cluster.gpu), ())
