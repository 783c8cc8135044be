"""Nodes, ranks and parallel sizes: what fits, and what the refusal says."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher._util.errors import LayoutError
from launcher.planning.layout import plan_layout
from launcher.planning.model import RankLayout


def layout(
    nodes: int | None = None,
    gpus: int | None = None,
    profile: int | None = None,
    machine: int | None = None,
    **sizes: int,
) -> RankLayout:
    return plan_layout(
        nodes=nodes,
        gpus_per_node=gpus,
        profile_gpus_per_node=profile,
        machine_gpus=machine,
        sizes=sizes,
    )


@pytest.mark.parametrize(
    ("found", "nodes", "ranks"),
    [
        (layout(), 1, 8),
        (layout(2, profile=4), 2, 4),
        (layout(2, 1, profile=4), 2, 1),
        (layout(machine=0), 1, 1),
        (layout(machine=4), 1, 4),
        (layout(gpus=2, machine=4), 1, 2),
    ],
)
def test_shape_comes_from_the_first_that_says_it(found: RankLayout, nodes: int, ranks: int) -> None:
    assert (found.nodes, found.ranks_per_node, found.world_size) == (nodes, ranks, nodes * ranks)


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        (
            {"nodes": 3, "tp": 16},
            "3 nodes x 8 GPUs per node = 24 ranks cannot be divided by TP 16 = 16",
            "--nodes 2 or 4",
        ),
        ({"nodes": 1, "tp": 2, "pp": 3}, "cannot be divided by TP 2 x PP 3 = 6", "--nodes 3"),
        ({"nodes": 1, "ep": 16}, "cannot be divided by EP 16 = 16", "--nodes 2"),
        ({"nodes": 1, "ep": 4, "etp": 4}, "ETP 4 x EP 4 = 16", "--nodes 2"),
        (
            {"nodes": 1, "tp": 2, "pp": 1, "cp": 1, "mbs": 3, "gbs": 64},
            "global_batch_size=64 is not a multiple of micro-batch size 3 x data-parallel size 4 = 12",
            "60 or 72",
        ),
        ({"tp": 0}, "model.tensor_model_parallel_size=0 must be at least 1", None),
        ({"nodes": 2, "machine": 1}, "2 nodes were asked for", None),
        ({"gpus": 4, "machine": 2}, "4 ranks were asked for, but this machine has 2 GPUs", "--gpus-per-node 2"),
    ],
)
def test_refusals_name_the_numbers_and_the_fix(arguments: dict[str, Any], sentence: str, hint: str | None) -> None:
    with pytest.raises(LayoutError) as caught:
        layout(**arguments)
    assert sentence in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


@given(
    nodes=st.integers(1, 64),
    gpus=st.integers(1, 8),
    tp=st.integers(1, 16),
    pp=st.integers(1, 8),
    cp=st.integers(1, 4),
)
def test_accepted_exactly_when_the_world_divides(nodes: int, gpus: int, tp: int, pp: int, cp: int) -> None:
    if nodes * gpus % (tp * pp * cp) == 0:
        assert layout(nodes, gpus, tp=tp, pp=pp, cp=cp).world_size == nodes * gpus
        return
    with pytest.raises(LayoutError) as caught:
        layout(nodes, gpus, tp=tp, pp=pp, cp=cp)
    # What the hint offers is accepted.
    offered = (caught.value.hint or "").split("--nodes ")[1].split(",")[0].split(" or ")
    for number in offered:
        assert layout(int(number), gpus, tp=tp, pp=pp, cp=cp).nodes == int(number)
