"""The preflight of a plan: impossible and suspicious values, and how much memory the run needs."""

from dataclasses import dataclass
from typing import Any

from launcher.planning import preflight
from launcher.planning.inputs import FromCheck, PlanInputs
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
    values = {**inputs.knowledge.values, **overridden}
    checked = isinstance(inputs.knowledge, FromCheck)
    if isinstance(inputs.knowledge, FromCheck):
        # A checked configuration includes the overrides, and what Bridge derived from them.
        values |= preflight.flattened(inputs.knowledge.resolved)
        values |= {f"checkpoint.{name}": overridden.get(f"checkpoint.{name}") for name in ("save", "load")}
    return preflight.ConfigView(
        values=values,
        world_size=layout.world_size,
        nodes=layout.nodes,
        complete=checked,
        gpu=inputs.cluster.gpu,
        gpus=inputs.cluster.device != "cpu",
        overridden=frozenset(override.key for override in inputs.overrides),
        files=inputs.knowledge.files,
        packages=inputs.image.packages if inputs.image else None,
    )


def _memory(inputs: PlanInputs, layout: RankLayout) -> PreflightResult:
    """Estimate the memory of a checked configuration; without one there is no estimate."""
    if not isinstance(inputs.knowledge, FromCheck):
        return PreflightResult(None, (), ("memory: the recipe decides",))
    if inputs.cluster.device == "cpu":
        return PreflightResult(None, (), ())
    from launcher.planning import memory  # only here: most plans are made without a check

    found, reason = memory.try_estimate(inputs.knowledge.resolved, layout.world_size)
    if found is None:
        return PreflightResult(None, (), (f"memory: {reason}",))
    return PreflightResult(found.to_dict(), memory.warnings(found, inputs.knowledge.resolved, inputs.cluster.gpu), ())
