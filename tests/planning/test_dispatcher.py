"""Dispatcher and fabric: what is refused with which alternative, and what is allowed with which variables."""

from typing import Any

import pytest

from launcher._util.errors import OverrideError
from launcher.planning import dispatcher
from launcher.planning.inputs import FromCheck
from launcher.planning.model import RankLayout
from tests.planning.checked_configurations import resolved
from tests.support.building import cluster, image, plan

FLEX = {"model.moe_token_dispatcher_type": "flex"}
DEEPEP = {**FLEX, "model.moe_flex_dispatcher_backend": "deepep"}
HYBRID = {**FLEX, "model.moe_flex_dispatcher_backend": "hybridep"}
EFA: dict[str, Any] = {"fabric": "efa"}
IB: dict[str, Any] = {"fabric": "infiniband"}
RACK: dict[str, Any] = {"fabric": "infiniband", "nvlink_domain_nodes": 18, "gpu": "GB200"}
RACK_EFA = {**RACK, "fabric": "efa"}


def decide(
    profile: dict[str, Any],
    values: dict[str, Any],
    *,
    nodes: int = 2,
    ranks: int = 8,
    backends: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
    ep: int | None = None,
    etp: int | None = None,
) -> dispatcher.Dispatcher:
    sizes = {name: size for name, size in (("ep", ep), ("etp", etp)) if size is not None}
    inside = image(moe_backends=backends, environment=environment or {})
    return dispatcher.plan_dispatcher(
        cluster(**profile), inside, RankLayout(nodes, ranks, nodes * ranks, ()), values, sizes
    )


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({}, None),
        (
            {"model.moe_token_dispatcher_type": "alltoall", "model.moe_flex_dispatcher_backend": "hybridep"},
            "alltoall",
        ),
        ({"model.moe_token_dispatcher_type": "allgather"}, "allgather"),
        (FLEX, "flex"),
        (DEEPEP, "deepep"),
        (HYBRID, "hybridep"),
        ({**FLEX, "model.moe_enable_deepep": True}, "deepep"),
        ({"model.moe_flex_dispatcher_backend": "hybridep"}, "hybridep"),
    ],
)
def test_which_dispatcher_the_values_mean(values: dict[str, Any], name: str | None) -> None:
    assert dispatcher.name_of(values) == name


@pytest.mark.parametrize(
    ("profile", "values", "sizes", "words"),
    [
        (EFA, DEEPEP, {"ep": 16}, "EFA has none: groups of EP 16 ranks leave a node of 8"),
        (EFA, HYBRID, {"ep": 16}, "EFA has none"),
        (EFA, FLEX, {"ep": 16}, "EFA has none"),
        (EFA, DEEPEP, {"ep": 8, "etp": 2}, "EP 8 x ETP 2 = 16"),
        (RACK, HYBRID, {"ep": 128}, "larger than an NVLink domain of 72"),
        (RACK, HYBRID, {"ep": 64, "etp": 2}, "EP 64 x ETP 2 = 128"),
        (RACK_EFA, HYBRID, {"ep": 128}, "larger than an NVLink domain of 72"),
        (RACK, DEEPEP, {"ep": 8}, "DeepEP does not support NVLink between nodes"),
    ],
)
def test_refused_with_the_alternative(
    profile: dict[str, Any], values: dict[str, Any], sizes: dict[str, int], words: str
) -> None:
    ranks = 4 if "gpu" in profile else 8
    with pytest.raises(OverrideError) as caught:
        decide(profile, values, nodes=32, ranks=ranks, ep=sizes["ep"], etp=sizes.get("etp"))
    assert words in caught.value.message
    assert "model.moe_token_dispatcher_type=alltoall" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("profile", "values", "nodes", "ranks", "ep"),
    [
        (EFA, {"model.moe_token_dispatcher_type": "alltoall"}, 32, 8, 64),
        (EFA, DEEPEP, 32, 8, 8),
        (EFA, HYBRID, 32, 8, 4),
        (EFA, DEEPEP, 1, 8, 8),
        (IB, DEEPEP, 32, 8, 64),
        (IB, HYBRID, 32, 8, 64),
        (RACK, HYBRID, 32, 4, 64),
        (RACK_EFA, HYBRID, 32, 4, 64),
        ({"fabric": "efa", "device": "cpu"}, DEEPEP, 32, 8, 16),
        (EFA, DEEPEP, 32, 8, 1),
    ],
)
def test_allowed(profile: dict[str, Any], values: dict[str, Any], nodes: int, ranks: int, ep: int) -> None:
    found = decide(profile, values, nodes=nodes, ranks=ranks, ep=ep)
    assert (found.warnings, found.unchecked) == ((), ())


def test_an_image_with_a_back_end_that_can_is_allowed_with_its_variables() -> None:
    gin = decide(EFA, DEEPEP, ep=16, backends=("deepep", "nccl-gin"))
    assert {one.name: one.value for one in gin.variables} == {"DEEP_EP_BACKEND": "nccl", "NCCL_GIN_TYPE": "2"}
    assert gin.unchecked
    own = decide(EFA, DEEPEP, ep=16, backends=("nccl-gin",), environment={"NCCL_GIN_TYPE": "5"})
    assert {one.name for one in own.variables} == {"DEEP_EP_BACKEND"}
    uccl = decide(EFA, DEEPEP, ep=16, backends=("nccl-gin", "uccl"))
    assert (uccl.variables, len(uccl.unchecked)) == ((), 1)
    libfabric = {"NVSHMEM_REMOTE_TRANSPORT": "libfabric"}
    nvshmem = decide(EFA, DEEPEP, ep=16, backends=("deepep", "nvshmem"), environment=libfabric)
    assert (nvshmem.variables, len(nvshmem.unchecked)) == ((), 1)
    assert decide({**EFA, "env": libfabric}, DEEPEP, ep=16, backends=("nvshmem",)).unchecked
    for backends, environment in ((("deepep", "nvshmem"), {}), (("deepep",), libfabric)):
        with pytest.raises(OverrideError, match="EFA has none"):  # torch's wheels bring NVSHMEM
            decide(EFA, DEEPEP, ep=16, backends=backends, environment=environment)
    with pytest.raises(OverrideError, match="DeepEP 2 between nodes"):
        decide(EFA, {**FLEX, "model.moe_flex_dispatcher_backend": "deepepv2"}, ep=16)
    with pytest.raises(OverrideError):  # these carry DeepEP
        decide(EFA, HYBRID, ep=16, backends=("nccl-gin", "uccl"))


@pytest.mark.parametrize(
    ("profile", "ranks", "ep", "expected"),
    [
        (RACK, 4, 8, {"NVLINK_DOMAIN_SIZE": "72", "USE_MNNVL": "1", "NUM_OF_HYBRID_EP_RANKS_PER_NVLINK_DOMAIN": "8"}),
        (RACK, 4, 64, {"NVLINK_DOMAIN_SIZE": "72", "USE_MNNVL": "1", "NUM_OF_HYBRID_EP_RANKS_PER_NVLINK_DOMAIN": "64"}),
        (IB, 8, 64, {"NVLINK_DOMAIN_SIZE": "8", "USE_MNNVL": "0", "NUM_OF_HYBRID_EP_RANKS_PER_NVLINK_DOMAIN": "8"}),
    ],
)
def test_hybridep_learns_its_nvlink_domain(
    profile: dict[str, Any], ranks: int, ep: int, expected: dict[str, str]
) -> None:
    found = decide(profile, HYBRID, nodes=32, ranks=ranks, ep=ep)
    assert {one.name: one.value for one in found.variables} == expected


def test_what_the_recipe_decides_is_listed_where_it_matters() -> None:
    assert decide(EFA, {}).unchecked
    assert decide(EFA, DEEPEP).unchecked
    assert decide(RACK, HYBRID, ranks=4).unchecked
    assert not decide(IB, {}).unchecked


def test_in_a_plan_and_the_recipes_own_variables_win() -> None:
    changes = tuple(f"{key}={value}" for key, value in HYBRID.items())
    run = plan(
        profile=cluster(gpus_per_node=4, **RACK, env={"USE_MNNVL": "0"}),
        request={"nodes": 8},
        changes=(*changes, "model.expert_model_parallel_size=32"),
    )
    found = {one.name: one for one in run.environment}
    assert found["NVLINK_DOMAIN_SIZE"].origin == "dispatcher hybridep"
    assert (found["USE_MNNVL"].value, found["USE_MNNVL"].overridden) == ("0", (("dispatcher hybridep", "1"),))
    with pytest.raises(OverrideError, match="EFA has none"):
        plan(
            profile=cluster(gpus_per_node=8, fabric="efa"),
            request={"nodes": 2},
            changes=("model.moe_token_dispatcher_type=flex", "model.expert_model_parallel_size=16"),
        )


def test_what_the_checked_recipe_holds_counts_unless_it_is_overridden() -> None:
    recipe = {**FLEX, "model.moe_flex_dispatcher_backend": "deepep", "model.expert_model_parallel_size": 16}
    recipe = {key.removeprefix("model."): value for key, value in recipe.items()}
    recipe |= resolved(16, 32, num_moe_experts=16, moe_token_dispatcher_type="flex", expert_model_parallel_size=16)
    profile = cluster(gpus_per_node=8, fabric="efa")
    with pytest.raises(OverrideError, match="EFA has none"):
        plan(profile=profile, request={"nodes": 2}, known=FromCheck(recipe))
    for change in ("model.moe_token_dispatcher_type=alltoall", "model.expert_model_parallel_size=8"):
        plan(profile=profile, request={"nodes": 2}, known=FromCheck(recipe), changes=(change,))


def test_a_recipe_with_deepep_is_written_for_other_nodes_as_well() -> None:
    nvl72 = cluster(gpu="GB200", nvlink_domain_nodes=18)
    layout = RankLayout(4, 4, 16, ())
    with pytest.raises(OverrideError, match="refuses it on GB200"):
        dispatcher.plan_dispatcher(nvl72, None, layout, DEEPEP, {"ep": 8})
    by_recipe = dispatcher.plan_dispatcher(nvl72, None, layout, DEEPEP, {"ep": 8}, stated=False)
    assert "replaced by alltoall" in by_recipe.warnings[0]
