"""What the network between nodes means for a run: variables, dispatcher of experts and placement, decided together.

The three share what is known about the model: the overrides' values, and those of the recipe where it was run.
"""

from collections.abc import Mapping
from typing import Any

from launcher.contract.frozen import dataclass
from launcher.planning import container, dispatcher, network
from launcher.planning import placement as topology
from launcher.planning.inputs import PlanInputs
from launcher.planning.layout import PARALLEL_KEYS
from launcher.planning.model import RankLayout, Variable


@dataclass(frozen=True)
class FabricPlan:
    """The decisions, as the plan needs them."""

    variables: tuple[Variable, ...]
    summary: str | None
    placement: tuple[str, ...]
    segment: int | None
    warnings: tuple[str, ...]
    unchecked: tuple[str, ...]
    guesses: tuple[str, ...]
    """Those of `unchecked` on which the job depends: its nodes, or whether it works at all."""


def plan_fabric(inputs: PlanInputs, layout: RankLayout, overridden: Mapping[str, Any]) -> FabricPlan:
    """Decide all three; `overridden` holds the overrides' values by key.

    Raises OverrideError, ImageError or LayoutError for what cannot work here.
    """
    cluster = inputs.cluster
    values = {**inputs.knowledge.values, **overridden}
    sizes = known_sizes(values)
    runtime = container.chosen_runtime(inputs.request, cluster)
    net = network.plan_network(cluster, runtime, inputs.image, layout, _explicit_env(inputs))
    stated = dispatcher.name_of(overridden) is not None
    experts = dispatcher.plan_dispatcher(cluster, inputs.image, layout, values, sizes, stated=stated)
    placed = topology.plan_placement(
        cluster, layout, sizes, inputs.backend, _stated_segment(inputs), named_nodes=_names_nodes(inputs)
    )
    return FabricPlan(
        variables=(*net.variables, *experts.variables),
        summary=net.summary,
        placement=placed.lines,
        segment=placed.segment,
        warnings=(*net.warnings, *experts.warnings, *placed.warnings),
        unchecked=(*net.unchecked, *experts.unchecked, *placed.unchecked),
        guesses=(*experts.guesses, *placed.guesses),
    )


def known_sizes(values: Mapping[str, Any]) -> dict[str, int]:
    """Return the parallel sizes among values by key, under their short names."""
    found = {short: values.get(key) for short, key in PARALLEL_KEYS.items()}
    return {short: size for short, size in found.items() if type(size) is int and size > 0}


def _explicit_env(inputs: PlanInputs) -> dict[str, str | None]:
    """Return what the profile's [env], the recipe and the user set; None in place of a value passed on by name."""
    user = (entry.partition("=") for entry in inputs.request.env)
    stated = {name: value if equals else None for name, equals, value in user}
    return {**inputs.cluster.env, **(inputs.knowledge.env or {}), **stated}


def _stated_segment(inputs: PlanInputs) -> dict[str, object]:
    """Return the --segment that the user states, or else the profile's directives, by its origin."""
    for origin, values in (
        ("--sbatch", inputs.request.sbatch),
        (f"[directives] of the cluster profile {inputs.cluster.name!r}", inputs.cluster.directives),
    ):
        if "segment" in values:
            return {origin: values["segment"]}
    return {}


def _names_nodes(inputs: PlanInputs) -> bool:
    """Return whether the job names nodes that it must have."""
    options = {**inputs.cluster.directives, **inputs.request.sbatch}
    return bool(inputs.request.nodelist or options.get("nodelist") or options.get("nodefile"))
