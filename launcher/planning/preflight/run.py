"""The preflight of a plan: impossible and suspicious values, and how much memory the run needs."""

from collections.abc import Mapping
from typing import Any

from launcher.contract.frozen import dataclass
from launcher.discovery.recipe import BridgeRecipe
from launcher.planning import preflight
from launcher.planning.inputs import FromCheck, PlanInputs
from launcher.planning.model import RankLayout
from launcher.planning.overrides import known_values


@dataclass(frozen=True)
class PreflightResult:
    """Result of the preflight, as the plan needs it."""

    memory: dict[str, Any] | None
    """The memory estimate in plain values; None if there is none."""
    checkpoints: dict[str, Any] | None
    """The estimate of the checkpoints in plain values; None if there is none."""
    warnings: tuple[str, ...]
    unchecked: tuple[str, ...]
    """What could not be checked before the run, in words."""


def run_preflight(inputs: PlanInputs, layout: RankLayout) -> PreflightResult:
    """Apply all rules and estimate the memory. Raises RequestError if a rule finds an impossible value."""
    found = (*preflight.require(preflight.findings(_config_view(inputs, layout))), *_fusion_warning(inputs))
    if not isinstance(inputs.knowledge, FromCheck):
        unchecked = ("memory: the recipe decides", "size of checkpoints: the recipe decides")
        return PreflightResult(None, None, found, unchecked)
    memory, of_memory, unknown = _memory(inputs, layout, inputs.knowledge.resolved)
    saved, of_space, also_unknown = _checkpoints(inputs, layout, inputs.knowledge)
    return PreflightResult(memory, saved, (*found, *of_memory, *of_space), (*unknown, *also_unknown))


def _config_view(inputs: PlanInputs, layout: RankLayout) -> preflight.ConfigView:
    overridden = known_values(inputs.overrides)
    values = {**inputs.knowledge.values, **overridden}
    checked = isinstance(inputs.knowledge, FromCheck)
    if isinstance(inputs.knowledge, FromCheck):
        # A checked configuration includes the overrides, and what Bridge derived from them.
        values |= preflight.flattened(inputs.knowledge.resolved)
        values |= {f"checkpoint.{name}": overridden.get(f"checkpoint.{name}") for name in ("save", "load")}
    judged = _computes_on_gpus(inputs) and not switches_fusion_off(inputs)
    kernel = inputs.accumulation_kernel if judged else None
    return preflight.ConfigView(
        values=values,
        world_size=layout.world_size,
        nodes=layout.nodes,
        complete=checked,
        gpu=inputs.cluster.gpu,
        gpus=inputs.cluster.device != "cpu",
        local=not inputs.backend.slurm_step and inputs.image is None,
        overridden=frozenset(override.key for override in inputs.overrides),
        files=inputs.knowledge.files,
        ft_launcher=inputs.cluster.ft_launcher,
        accumulation_kernel=kernel,
        packages=inputs.image.packages if inputs.image else None,
        moe_backends=inputs.image.moe_backends if inputs.image else (),
    )


FUSION = "model.gradient_accumulation_fusion"
"""On in each of Megatron Bridge's recipes; megatron-core does it with a kernel of APEX."""


def switches_fusion_off(inputs: PlanInputs) -> bool:
    """Return whether a run on this machine, whose interpreter has no APEX, does without gradient accumulation fusion.

    It does unless the user states the key: the fusion saves time and memory, and adds up the same gradients.
    """
    stated = {override.key for override in inputs.overrides} & {FUSION, "model"}
    checked = inputs.knowledge.resolved if isinstance(inputs.knowledge, FromCheck) else None
    on = True if checked is None else preflight.flattened(checked).get(FUSION)
    return (
        not inputs.backend.slurm_step
        and inputs.accumulation_kernel is False
        and _computes_on_gpus(inputs)
        and isinstance(inputs.recipe, BridgeRecipe)
        and not stated
        and bool(on)
    )


def _fusion_warning(inputs: PlanInputs) -> tuple[str, ...]:
    """Return a sentence where the ranks of a recipe that was not run will probably end for want of the kernel."""
    stated = {override.key for override in inputs.overrides} & {FUSION, "model"}
    known = stated or isinstance(inputs.knowledge, FromCheck) or not isinstance(inputs.recipe, BridgeRecipe)
    if (
        known
        or inputs.accumulation_kernel is not False
        or not inputs.backend.slurm_step
        or not _computes_on_gpus(inputs)
    ):
        return ()
    return (
        f"recipes of Megatron Bridge turn {FUSION} on, and the interpreter of the ranks has no APEX, which it needs: "
        f"{FUSION}=false trains without",
    )


def _computes_on_gpus(inputs: PlanInputs) -> bool:
    """Return whether the run is known to compute on GPUs."""
    here = not inputs.backend.slurm_step
    return inputs.cluster.device != "cpu" and (inputs.host.gpus > 0 if here else inputs.cluster.device == "gpu")


_Estimate = tuple[dict[str, Any] | None, tuple[str, ...], tuple[str, ...]]
"""An estimate in plain values, warnings, and what is unknown."""


def _memory(inputs: PlanInputs, layout: RankLayout, resolved: Mapping[str, Any]) -> _Estimate:
    """Estimate the memory of a checked configuration; without one there is no estimate."""
    if inputs.cluster.device == "cpu":
        return None, (), ()
    from launcher.planning import memory  # only here: most plans are made without a check

    found, reason = memory.try_estimate(resolved, layout.world_size)
    if found is None:
        return None, (), (f"memory: {reason}",)
    return found.to_dict(), memory.warnings(found, resolved, inputs.cluster.gpu), ()


def _checkpoints(inputs: PlanInputs, layout: RankLayout, knowledge: FromCheck) -> _Estimate:
    """Estimate the checkpoints, and compare them with the space that there is. Raises RequestError."""
    from launcher.planning import checkpoint_space, memory

    saves = known_values(inputs.overrides).get("checkpoint.save", "") is not None
    own = knowledge.files.loads if knowledge.files.loads and knowledge.files.loads.own else None
    try:
        size = checkpoint_space.estimate(
            knowledge.resolved, layout.world_size, saves=saves, done=own.iteration if own else 0
        )
    except memory.NotEstimatedError as error:
        return None, (), (f"size of checkpoints: {error}",)
    unknown = () if inputs.space or not size.at_once else ("space for checkpoints: their directory is not seen here",)
    return size.to_dict(), checkpoint_space.findings(size, inputs.space), unknown
