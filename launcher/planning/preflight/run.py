"""The preflight of a plan: impossible and suspicious values, and how much memory the run needs."""

from dataclasses import dataclass
from typing import Any

from launcher.planning import memory, preflight
from launcher.planning.inputs import PlanInputs
from launcher.planning.model import RankLayout
from launcher.planning.overrides import known_values


@dataclass(frozen=True)
class PreflightResult:
    """Result of the preflight, as the plan needs it."""

    memory: dict[str, Any] | None
    """The memory estimate in plain values; None if there is none."""
    warnings: tuple[str, ...]
    unchecked: tuple[str, ...]
    """What could not be checked before the run, in words."""


def run_preflight(inputs: PlanInputs, layout: RankLayout) -> PreflightResult:
    """Apply all rules and estimate the memory. Raises RequestError if a rule finds an impossible value."""
    found = preflight.require(preflight.findings(_config_view(inputs, layout)))
    ahead = _memory(inputs, layout)
    return PreflightResult(ahead.memory, (*found, *ahead.warnings), ahead.unchecked)


def _config_view(inputs: PlanInputs, layout: RankLayout) -> preflight.ConfigView:
    overridden = known_values(inputs.overrides)
    # A checked configuration includes the overrides, and what Bridge derived from them.
    values = {**inputs.recipe_values, **overridden, **preflight.flattened(inputs.resolved)}
    if inputs.resolved is not None:
        values |= {f"checkpoint.{name}": overridden.get(f"checkpoint.{name}") for name in ("save", "load")}
    return preflight.ConfigView(
        values=values,
        world_size=layout.world_size,
        nodes=layout.nodes,
        complete=inputs.resolved is not None,
        gpu=inputs.cluster.gpu,
        gpus=inputs.cluster.device != "cpu",
        overridden=frozenset(override.key for override in inputs.overrides),
        files=inputs.files,
        packages=inputs.image.packages if inputs.image else None,
    )


def _memory(inputs: PlanInputs, layout: RankLayout) -> PreflightResult:
    """Estimate the memory of a checked configuration; without one there is no estimate."""
    if inputs.resolved is None:
        return PreflightResult(None, (), ("memory: the recipe decides",))
    if inputs.cluster.device == "cpu":
        return PreflightResult(None, (), ())
    found, reason = memory.try_estimate(inputs.resolved, layout.world_size)
    if found is None:
        return PreflightResult(None, (), (f"memory: {reason}",))
    return PreflightResult(found.to_dict(), memory.warnings(found, inputs.resolved, inputs.cluster.gpu), ())
