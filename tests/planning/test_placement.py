"""--segment and placement, against groups as megatron.core lays them out and every way in which racks may be filled."""

import ast
import itertools
import math
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from launcher._util.errors import LayoutError
from launcher.cli.commands.plan import show
from launcher.planning import placement as topology
from launcher.planning.backend import BATCH
from launcher.planning.inputs import FromCheck
from launcher.planning.model import Plan, RankLayout
from tests.planning.checked_configurations import resolved
from tests.support.building import allocation, cluster, plan

RACK: dict[str, Any] = {"gpus_per_node": 4, "nvlink_domain_nodes": 18, "topology": "block"}
DOMAIN = 18


def layout(nodes: int, ranks: int = 4) -> RankLayout:
    return RankLayout(nodes, ranks, nodes * ranks, ())


def place(nodes: int, **sizes: int) -> topology.Placement:
    return topology.plan_placement(cluster(**RACK), layout(nodes), sizes, BATCH, {})


def place_small(nodes: int, **sizes: int) -> topology.Placement:
    return topology.plan_placement(cluster(**RACK), layout(nodes), sizes, BATCH, {"--sbatch": "smallest"})


def groups(world_size: int, tp: int = 1, ep: int = 1, etp: int = 1) -> list[list[int]]:
    """Groups of TP, EP and ETP, each rank taken apart into coordinates: tp and the rest, or etp, ep and the rest."""
    tensor: dict[Any, list[int]] = {}
    experts: dict[Any, list[int]] = {}
    slices: dict[Any, list[int]] = {}
    for rank in range(world_size):
        tensor.setdefault(rank // tp, []).append(rank)
        experts.setdefault((rank % etp, rank // (etp * ep)), []).append(rank)
        slices.setdefault(rank // etp, []).append(rank)
    return [*tensor.values(), *experts.values(), *slices.values()]


def megatrons_generator() -> Any:
    """megatron.core's RankGenerator, taken from its file: to import the package takes torch and half a minute."""
    found = find_spec("megatron")
    assert found is not None
    file = next(Path(place) / "core/parallel_state.py" for place in found.submodule_search_locations or ())
    tree = ast.parse(file.read_text())
    wanted = ("RankGenerator", "generate_masked_orthogonal_rank_groups")
    tree.body = [one for one in tree.body if getattr(one, "name", None) in wanted]
    names: dict[str, Any] = {"List": list}
    exec(compile(tree, str(file), "exec"), names)  # noqa: S102 - two definitions of an installed package
    return names["RankGenerator"]


@pytest.mark.parametrize(
    ("world_size", "tp", "cp", "ep", "etp", "pp"),
    [(64, 4, 2, 8, 1, 2), (64, 8, 1, 16, 2, 1), (48, 4, 1, 6, 2, 2), (128, 1, 1, 64, 1, 2), (32, 2, 4, 1, 2, 4)],
)
def test_groups_are_megatrons_own(world_size: int, tp: int, cp: int, ep: int, etp: int, pp: int) -> None:
    generator = megatrons_generator()
    order = "tp-cp-ep-dp-pp"
    dense = generator(tp=tp, ep=1, dp=world_size // (tp * cp * pp), pp=pp, cp=cp, order=order)
    experts = generator(tp=etp, ep=ep, dp=world_size // (etp * ep * pp), pp=pp, cp=1, order=order)
    found = [*dense.get_ranks("tp"), *experts.get_ranks("ep"), *experts.get_ranks("tp")]
    assert sorted(found) == sorted(groups(world_size, tp, ep, etp))


@cache
def fillings(segments: int, most: int) -> tuple[tuple[int, ...], ...]:
    """How many segments each rack in turn takes: all racks empty or part used, in every way that differs."""
    if segments == 0:
        return ((),)
    return tuple(
        (first, *rest) for first in range(1, min(most, segments) + 1) for rest in fillings(segments - first, most)
    )


def safe(nodes: int, segment: int, found: list[list[int]], ranks: int = 4, domain: int = DOMAIN) -> bool:
    """By brute force: no group spans two racks, however Slurm deals segments out to racks."""
    if nodes % segment or segment > domain:
        return False
    ends: set[int] = set()
    if nodes // segment <= 8:
        for filling in fillings(nodes // segment, domain // segment):
            ends |= set(itertools.accumulate(filling))
    else:  # the ends that any filling can have: each segment's
        ends = set(range(1, nodes // segment + 1))
    cuts = {end * segment for end in ends}

    def racks(group: list[int]) -> bool:
        first, last = min(group) // ranks, max(group) // ranks
        return any(first < cut <= last for cut in cuts)

    return not any(racks(group) for group in found)


@pytest.mark.parametrize(
    ("nodes", "sizes", "smallest", "segment"),
    [
        (2, {"ep": 8}, 2, 2),
        (16, {"ep": 8}, 2, 16),
        (34, {"ep": 8}, 2, 2),  # the largest divisor up to 18 is 17, which cuts every other group
        (36, {"ep": 8}, 2, 18),
        (4, {"ep": 16}, 4, 4),
        (36, {"ep": 16}, 4, 12),
        (8, {"ep": 32}, 8, 8),
        (32, {"ep": 32}, 8, 16),
        (16, {"ep": 64}, 16, 16),
        (32, {"ep": 64}, 16, 16),
        (18, {"ep": 72}, 18, 18),
        (36, {"ep": 72}, 18, 18),
        (36, {"tp": 8}, 2, 18),
        (36, {"tp": 4}, None, 18),
        (36, {"tp": 4, "ep": 4}, None, 18),
        (24, {"tp": 8, "ep": 16}, 4, 12),
        (24, {"tp": 8, "ep": 8, "etp": 2}, 4, 12),
        (12, {"tp": 8, "ep": 12}, 6, 12),
        (36, {"tp": 4, "cp": 4}, 4, 12),
        (1, {"ep": 4}, None, None),
        # A 70B by FSDP over 64 GPUs, 405B on 64 nodes, a whole rack: one node holds each group.
        (16, {"tp": 1}, None, 16),
        (64, {"tp": 4, "pp": 8}, None, 16),
        (18, {"tp": 4}, None, 18),
        (37, {"tp": 4}, None, None),
    ],
)
def test_segments_by_shape(nodes: int, sizes: dict[str, int], smallest: int | None, segment: int | None) -> None:
    assert place(nodes, **sizes).segment == segment
    assert place_small(nodes, **sizes).segment == smallest


@pytest.mark.parametrize(
    ("nodes", "sizes", "segment_max", "segment"),
    [(64, {"tp": 4}, 16, 16), (18, {"tp": 4}, 16, 9), (36, {"ep": 16}, 16, 12), (18, {"ep": 72}, 16, 18)],
)
def test_a_site_leaves_nodes_of_a_rack_to_replace_others(
    nodes: int, sizes: dict[str, int], segment_max: int, segment: int
) -> None:
    profile = cluster(**RACK, segment_max=segment_max)
    placed = topology.plan_placement(profile, layout(nodes), sizes, BATCH, {})
    assert placed.segment == segment
    assert [text for text in placed.warnings if "at most 16 (segment_max)" in text] == (
        list(placed.warnings) if segment > segment_max else []
    )
    assert bool(placed.warnings) == (segment > segment_max)


@pytest.mark.parametrize(
    ("nodes", "sizes", "counts"),
    [
        (34, {"ep": 8}, "32 (segments of 16), 36 (segments of 18), 40 (segments of 10), 42 (segments of 14)"),
        (37, {"tp": 4}, "36 (segments of 18), 39 (segments of 13), 40 (segments of 10), 42 (segments of 14)"),
        (20, {"tp": 4}, None),
        (19, {"tp": 4}, "18 (segments of 18), 20 (segments of 10), 22 (segments of 11), 24 (segments of 12)"),
    ],
)
def test_a_number_of_nodes_that_scatters_a_run_is_warned_of_with_better_ones(
    nodes: int, sizes: dict[str, int], counts: str | None
) -> None:
    warnings = place(nodes, **sizes).warnings
    assert len(warnings) == (counts is not None)
    assert counts is None or warnings[0].endswith(f": {counts}")
    assert place_small(nodes, **sizes).warnings == ()


CASES = [
    (nodes, tp, ep, etp)
    for nodes in range(2, 37)
    for tp in (1, 4, 8)
    for ep in (1, 8, 16, 32, 64)
    for etp in (1, 2)
    if nodes * 4 % tp == 0 and nodes * 4 % (ep * etp) == 0
]


def test_no_group_spans_two_racks_whatever_slurm_does_and_no_other_segment_is_better() -> None:
    tried = 0
    for nodes, tp, ep, etp in CASES:
        sizes = {"tp": tp, "ep": ep, "etp": etp}
        laid_out = groups(nodes * 4, tp=tp, ep=ep, etp=etp)
        able = [each for each in range(1, DOMAIN + 1) if safe(nodes, each, laid_out)]
        if not able:
            with pytest.raises(LayoutError):
                place(nodes, **sizes)
        else:
            assert (place_small(nodes, **sizes).segment or 1) == able[0], (nodes, sizes)
            assert (place(nodes, **sizes).segment or 1) == able[-1], (nodes, sizes)
            tried += 1
    assert tried > 100


@given(
    multiple=st.integers(0, 39),
    ranks=st.sampled_from([1, 2, 4, 6, 8]),
    domain=st.integers(2, 20),
    tp=st.sampled_from([1, 2, 3, 4, 6, 8, 16]),
    ep=st.sampled_from([1, 2, 6, 8, 12, 16, 32, 72]),
    etp=st.sampled_from([1, 2]),
    pp=st.sampled_from([1, 2]),
)
def test_any_shape_is_placed_safely_or_refused(
    multiple: int, ranks: int, domain: int, tp: int, ep: int, etp: int, pp: int
) -> None:
    whole = math.lcm(tp * pp, ep * etp * pp)
    fewest = whole // math.gcd(whole, ranks)
    assume(fewest <= 40)
    nodes = fewest * (1 + multiple % (40 // fewest))
    assume(nodes > 1)
    size = nodes * ranks
    laid_out = groups(size, tp=tp, ep=ep, etp=etp)
    profile = cluster(gpus_per_node=ranks, nvlink_domain_nodes=domain, topology="block")
    sizes = {"tp": tp, "ep": ep, "etp": etp, "pp": pp}
    able = [each for each in range(1, domain + 1) if safe(nodes, each, laid_out, ranks, domain)]
    try:
        placed = topology.plan_placement(profile, layout(nodes, ranks), sizes, BATCH, {})
        small = topology.plan_placement(profile, layout(nodes, ranks), sizes, BATCH, {"--sbatch": "smallest"})
    except LayoutError:
        assert able == []
        return
    assert ((small.segment or 1), (placed.segment or 1)) == (able[0], able[-1])


def test_what_no_domain_holds_is_refused_with_the_numbers() -> None:
    with pytest.raises(LayoutError) as caught:
        place(32, ep=128)
    assert "EP 128 on 32 nodes" in caught.value.message
    assert "a domain has 18 (72 GPUs)" in caught.value.message
    assert "--sbatch segment=NODES" in (caught.value.hint or "")


def test_context_parallelism_is_held_together_where_that_is_possible_and_warned_of_elsewhere() -> None:
    assert place_small(32, tp=4, cp=8, ep=8).segment == 8
    assert place(32, tp=4, cp=8, ep=8).segment == 16
    apart = place_small(32, tp=4, cp=32, ep=8)
    assert apart.segment == 2
    assert [text for text in apart.warnings if text.startswith("CP 32 x TP 4 = 128")]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("17", ["groups of EP 8 may span"]),
        ("3", ["does not divide 34 nodes: Slurm refuses that", "groups of EP 8 may span"]),
        (34, ["an NVLink domain has 18 nodes"]),
        # Larger than the run, so that a Slurm that knows it ignores it: no segment at all.
        ("36", ["the run has 34 nodes: Slurm ignores that since 26.05", "has 18 nodes", "groups of EP 8 may span"]),
        ("many", ["not a number of nodes"]),
        ("largest", ["not a number of nodes"]),
        (True, ["not a number of nodes"]),
        (False, ["leaves --segment out: groups of EP 8"]),
        ("2", []),
    ],
)
def test_a_stated_segment_counts_and_is_checked(value: object, words: list[str]) -> None:
    placed = topology.plan_placement(cluster(**RACK), layout(34), {"ep": 8}, BATCH, {"--sbatch": value})
    assert placed.segment is None
    assert len(placed.warnings) == len(words)
    for word, warning in zip(words, placed.warnings, strict=True):
        assert word in warning


@pytest.mark.parametrize(
    ("nodes", "stated", "warned"),
    [
        (18, {}, False),  # one segment
        (36, {}, True),
        (36, {"--sbatch": "2"}, True),
        (36, {"--sbatch": "smallest"}, True),
        (36, {"--sbatch": False}, False),
        (4, {"--sbatch": "4"}, False),
    ],
)
def test_segments_beside_named_nodes_are_warned_of(nodes: int, stated: dict[str, object], warned: bool) -> None:
    for named in (True, False):
        placed = topology.plan_placement(
            cluster(**RACK), layout(nodes), {"ep": 8, "tp": 1, "cp": 1}, BATCH, stated, named_nodes=named
        )
        found = [text for text in placed.warnings if "Slurm refuses such a job before 25.11" in text]
        assert bool(found) is (named and warned)


@pytest.mark.parametrize("request_", [{"nodelist": "n[1-36]"}, {"sbatch": {"nodelist": "n[1-36]"}}])
def test_nodes_may_be_named_in_two_ways(request_: dict[str, Any]) -> None:
    run = plan("batch", profile=cluster(**RACK), request={"nodes": 36, **request_})
    assert [text for text in run.warnings if "--unset-sbatch segment" in text]


def made(
    *changes: str, nodes: int = 8, sbatch: dict[str, Any] | None = None, backend: Any = "batch", **profile: Any
) -> Plan:
    return plan(
        backend,
        profile=cluster(**{**RACK, **profile}),
        request={"nodes": nodes, "sbatch": sbatch or {}},
        changes=changes,
        allocated=allocation(nodes, 4),
    )


EP16 = ("model.tensor_model_parallel_size=4", "model.expert_model_parallel_size=16")


def test_the_plan_asks_slurm_for_it_and_shows_where_groups_lie() -> None:
    run = made(*EP16, "model.pipeline_model_parallel_size=2")
    assert dict(run.directives)["segment"] == "8"
    assert run.placement == (
        "TP 4: one group on each node",
        "EP 16: 2 groups of 16 ranks, on nodes 0-3, nodes 4-7",
        "PP 2: stage 0 on nodes 0-3, 1 on nodes 4-7",
        "segment 8 nodes: no TP or EP group leaves its NVLink domain (16 of the 18 nodes of a domain are used)",
    )
    assert dict(made(*EP16, sbatch={"segment": "smallest"}).directives)["segment"] == "4"
    assert dict(made(*EP16, directives={"segment": "smallest"}).directives)["segment"] == "4"
    assert "segment" not in dict(made(sbatch={"segment": "smallest"}, nodes=37).directives)
    assert "segment" not in dict(made(*EP16, topology=None).directives)
    assert "segment" not in dict(made(*EP16, nvlink_domain_nodes=1).directives)


def test_the_checked_recipe_decides_it_and_people_read_it(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"tensor_model": 4, "pipeline_model": 1, "context": 1, "expert_model": 32, "expert_tensor": 1}
    recipe: dict[str, Any] = {f"{name}_parallel_size": size for name, size in sizes.items()}
    recipe |= {"moe_token_dispatcher_type": "alltoall"}
    recipe |= resolved(64, 64, num_moe_experts=32, sequence_parallel=True, **recipe)
    run = plan(profile=cluster(**RACK, fabric="infiniband"), request={"nodes": 16}, known=FromCheck(recipe))
    assert dict(run.directives)["segment"] == "16"
    assert run.unchecked == ()
    show(run, as_json=False, with_scripts=False)
    shown = capsys.readouterr().out
    assert "placement  EP 32: 2 groups of 32 ranks, on nodes 0-7, nodes 8-15" in shown
    assert "infiniband, NVLink joins 18 nodes; a run that does not get it continues with a warning" in shown
    assert "--segment=16" in shown


def test_who_states_a_segment_gets_it() -> None:
    assert dict(made(*EP16, sbatch={"segment": "8"}).directives)["segment"] == "8"
    assert "segment" not in dict(made(*EP16, sbatch={"segment": False}).directives)
    run = made(*EP16, directives={"segment": 2})
    assert dict(run.directives)["segment"] == "2"
    assert [text for text in run.warnings if "[directives] of the cluster profile 'test' gives --segment 2" in text]


def test_what_only_the_recipe_knows_is_listed() -> None:
    run = made("model.tensor_model_parallel_size=8", nodes=20)
    assert dict(run.directives)["segment"] == "10"
    assert "--segment: CP, EP counted as 1, and the recipe decides" in run.unchecked
    # Up to the largest segment the nodes are one, whatever the recipe decides.
    assert [text for text in made(nodes=16).unchecked if "--segment" in text] == []
    assert [text for text in made(*EP16, backend="allocation").unchecked if "salloc --segment" in text]
    assert [text for text in made(*EP16, topology=None).unchecked if "the profile has no topology" in text]
