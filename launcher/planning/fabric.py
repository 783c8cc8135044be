"""What a run's surroundings ask of it: network, dispatcher of experts and placement, decided together.

The three share what is known of the model: the overrides' values, and where the recipe was run those that it gave.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launcher.planning import container, dispatcher, layout, network
from launcher.planning import placement as topology
from launcher.planning.inputs import PlanInputs
from launcher.planning.model import Geometry, Variable


@dataclass(frozen=True)
class Surroundings:
    """The decisions, as the plan needs them."""

    variables: tuple[Variable, ...]
    summary: str | None
    placement: tuple[str, ...]
    segment: int | None
    warnings: tuple[str, ...]
    unchecked: tuple[str, ...]


def decide(inputs: PlanInputs, shape: Geometry, overridden: Mapping[str, Any]) -> Surroundings:
    """Decide all three; `overridden` holds the overrides' values by key.

    Raises OverrideError, ImageError or GeometryError for what cannot work here.
    """
    cluster = inputs.cluster
    values = {**inputs.recipe_values, **overridden}
    sizes = known_sizes(values)
    runtime = container.chosen_runtime(inputs.request, cluster)
    net = network.decide(cluster, runtime, inputs.image, shape.nodes, _stronger(inputs))
    stated = dispatcher.name_of(overridden) is not None
    experts = dispatcher.decide(cluster, inputs.image, shape, values, sizes, stated=stated)
    placed = topology.decide(cluster, shape, sizes, inputs.backend, _stated_segment(inputs))
    return Surroundings(
        variables=(*net.variables, *experts.variables),
        summary=net.summary,
        placement=placed.lines,
        segment=placed.segment,
        warnings=(*net.warnings, *experts.warnings, *placed.warnings),
        unchecked=(*net.unchecked, *experts.unchecked, *placed.unchecked),
    )


def known_sizes(values: Mapping[str, Any]) -> dict[str, int]:
    """The parallel sizes among values by key, under their short names."""
    found = {short: values.get(key) for short, key in layout.PARALLEL_KEYS.items()}
    return {short: size for short, size in found.items() if type(size) is int and size > 0}


def _stronger(inputs: PlanInputs) -> dict[str, str | None]:
    """What the profile's [env], the recipe and the user set; None in place of a value passed on by name."""
    user = (entry.partition("=") for entry in inputs.request.env)
    stated = {name: value if equals else None for name, equals, value in user}
    return {**inputs.cluster.env, **(inputs.recipe_env or {}), **stated}


def _stated_segment(inputs: PlanInputs) -> dict[str, object]:
    """The --segment that the user states, else the profile's directives."""
    for origin, values in (
        ("--sbatch", inputs.request.sbatch),
        (f"[directives] of the cluster profile {inputs.cluster.name!r}", inputs.cluster.directives),
    ):
        if "segment" in values:
            return {origin: values["segment"]}
    return {}
