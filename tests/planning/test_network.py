"""What a profile's network makes of the environment: pinned, overridden, refused, left open."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher._util.errors import ImageError, RequestError
from launcher.contract.fabrics import FABRICS
from launcher.discovery.image import NcclNetPlugin
from launcher.planning.model import Plan, Variable
from tests.support.building import cluster, image, plan

OFI = NcclNetPlugin("/opt/amazon/ofi-nccl/lib/libnccl-net.so", ("Libfabric", "AWS Libfabric", "OFI"))
OLD_OFI = NcclNetPlugin("/opt/aws-ofi-nccl/lib/libnccl-net.so.0", ("AWS Libfabric",))
NAMELESS = NcclNetPlugin("/opt/x/libnccl-net-x.so", ())
SPCX = NcclNetPlugin("/opt/hpcx/nccl_spectrum-x_plugin/lib/libnccl-net-spcx.so", ("SPCX",))
SHARP = NcclNetPlugin("/opt/hpcx/nccl_rdma_sharp_plugin/lib/libnccl-net.so", ("IBext_v11", "IBext_v10"))
NGC = {"NCCL_NET_PLUGIN": "spcx", "PATH": "/usr/bin"}
NVL72: dict[str, Any] = {"gpus_per_node": 4, "nvlink_domain_nodes": 18, "gpu": "GB200"}


def made(
    *plugins: NcclNetPlugin,
    env: tuple[str, ...] = (),
    nodes: int = 2,
    preset: dict[str, str] | None = None,
    known: bool = True,
    **profile: Any,
) -> Plan:
    inside = image(net_plugins=plugins if known else None, environment=preset or NGC)
    values = {"gpus_per_node": 8, "runtime": "pyxis", "image": "nemo", **profile}
    return plan(profile=cluster(**values), request={"nodes": nodes, "env": env}, inside=inside)


def found(run: Plan, name: str, place: str = "task") -> Variable | None:
    return next((one for one in run.environment if (one.name, one.scope) == (name, place)), None)


def value(run: Plan, name: str, place: str = "task") -> str | None:
    one = found(run, name, place)
    return one.value if one else None


@pytest.mark.parametrize(
    ("plugins", "path", "name"),
    [
        ((OFI,), OFI.path, "Libfabric"),
        ((SPCX, OFI), OFI.path, "Libfabric"),
        ((SPCX, OLD_OFI), OLD_OFI.path, "AWS Libfabric"),
    ],
)
def test_on_efa_the_images_plugin_is_pinned_by_path_and_by_its_own_name(
    plugins: tuple[NcclNetPlugin, ...], path: str, name: str
) -> None:
    run = made(*plugins, fabric="efa", network="require")
    assert value(run, "NCCL_NET_PLUGIN") == path
    assert value(run, "NCCL_NET") == name
    pinned = found(run, "NCCL_NET_PLUGIN")
    assert pinned is not None
    assert pinned.origin == "fabric efa"
    assert pinned.overridden == (("the image", "spcx"),)
    assert "NCCL_NET_PLUGIN: fabric efa overrides the image" in run.warnings
    assert path in (run.network or "")


def test_without_a_look_into_the_image_nothing_is_pinned_and_the_plan_says_so() -> None:
    for run in (
        made(known=False, fabric="efa"),
        plan(profile=cluster(gpus_per_node=8, fabric="efa"), request={"nodes": 2}),
    ):
        assert (value(run, "NCCL_NET_PLUGIN"), value(run, "NCCL_NET")) == (None, None)
        assert [text for text in run.unchecked if text.startswith("NCCL's plugin for EFA")]


def test_an_image_without_a_plugin_for_efa_is_warned_of_or_refused() -> None:
    assert [text for text in made(SPCX, fabric="efa").warnings if "no aws-ofi-nccl" in text and "spcx" in text]
    with pytest.raises(ImageError, match="no aws-ofi-nccl") as caught:
        made(SPCX, fabric="efa", network="require")
    assert "--env NCCL_NET_PLUGIN=" in (caught.value.hint or "")
    # One node talks over NVLink alone; and without a policy nothing is said.
    made(SPCX, fabric="efa", network="require", nodes=1)
    assert not [text for text in made(SPCX, fabric="efa", network="off").warnings if "no aws-ofi-nccl" in text]
    # A plugin that the user names, mounted from the node, is accepted.
    made(SPCX, fabric="efa", network="require", env=("NCCL_NET_PLUGIN=/opt/amazon/ofi-nccl/lib/libnccl-net.so",))


def test_a_name_is_pinned_for_a_plugin_that_was_seen_and_for_no_other() -> None:
    other = made(OFI, fabric="efa", env=("NCCL_NET_PLUGIN=/mine.so",))
    assert (value(other, "NCCL_NET_PLUGIN"), value(other, "NCCL_NET")) == ("/mine.so", None)
    same = made(OFI, OLD_OFI, fabric="efa", network="require", env=(f"NCCL_NET_PLUGIN={OLD_OFI.path}",))
    assert (value(same, "NCCL_NET_PLUGIN"), value(same, "NCCL_NET")) == (OLD_OFI.path, "AWS Libfabric")
    # Where a run may go on without EFA, no name makes NCCL end it.
    for policy in ("warn", "off"):
        assert value(made(OFI, fabric="efa", network=policy), "NCCL_NET") is None


@pytest.mark.parametrize("name", ["NCCL_NET_PLUGIN", "NCCL_NET", "FI_PROVIDER", "NCCL_MNNVL_ENABLE"])
def test_profile_and_user_beat_the_network_and_the_plan_shows_winner_and_losers(name: str) -> None:
    by_profile = plan(
        profile=cluster(
            gpus_per_node=8,
            runtime="pyxis",
            image="n",
            fabric="efa",
            network="require",
            nvlink_domain_nodes=18,
            env={name: "theirs"},
        ),
        request={"nodes": 2},
        inside=image(net_plugins=(OFI,), environment=NGC),
    )
    winner = found(by_profile, name)
    assert winner is not None
    assert (winner.value, winner.origin) == ("theirs", "cluster profile test")
    assert winner.overridden[0][0].startswith(("fabric efa", "NVLink domain"))
    by_user = found(made(OFI, fabric="efa", nvlink_domain_nodes=18, env=(f"{name}=mine",)), name)
    assert by_user is not None
    assert (by_user.value, by_user.origin) == ("mine", "--env")


def test_infiniband_takes_spcx_away_and_sharp_names_its_plugin() -> None:
    assert value(made(SPCX, fabric="infiniband"), "NCCL_NET_PLUGIN") == "none"
    assert value(made(SPCX, fabric="infiniband", preset={"A": "b"}), "NCCL_NET_PLUGIN") is None
    run = made(SPCX, SHARP, fabric="infiniband", sharp=True)
    assert value(run, "NCCL_NET_PLUGIN") == SHARP.path
    assert value(run, "NCCL_COLLNET_ENABLE") == "1"
    assert value(run, "SHARP_COLL_ENABLE_PCI_RELAXED_ORDERING") == "1"
    without = made(SPCX, fabric="infiniband", sharp=True)
    assert value(without, "NCCL_NET_PLUGIN") == "none"
    assert [text for text in without.warnings if "sharp = true" in text] == [
        "the image nemo has no plugin of NCCL that knows SHARP (nccl-rdma-sharp-plugins, in HPC-X): "
        "the profile's sharp = true has no effect"
    ]
    assert [text for text in made(OFI, fabric="efa", sharp=True).warnings if "sharp = true" in text]


@pytest.mark.parametrize("fabric", ["roce", "spectrum-x"])
def test_on_roce_nccls_own_transport_replaces_spcx_unless_it_is_asked_for(fabric: str) -> None:
    run = made(SPCX, fabric=fabric)
    pinned = found(run, "NCCL_NET_PLUGIN")
    assert pinned is not None
    assert (pinned.value, pinned.overridden) == ("none", (("the image", "spcx"),))
    assert value(made(SPCX, fabric=fabric, env=("NCCL_NET_PLUGIN=spcx",)), "NCCL_NET_PLUGIN") == "spcx"
    assert found(made(SPCX, fabric=fabric, preset={"A": "b"}), "NCCL_NET_PLUGIN") is None
    large = made(SPCX, fabric=fabric, nodes=1250)
    assert bool([text for text in large.unchecked if "spcx is faster" in text]) == (fabric == "spectrum-x")


@pytest.mark.parametrize(("fabric", "name"), [("gib", "gIB"), ("fastrak", "FasTrak")])
def test_googles_plugins_are_insisted_on_and_the_images_own_is_removed(fabric: str, name: str) -> None:
    run = made(SPCX, fabric=fabric, network="require")
    assert value(run, "NCCL_NET") == name
    removed = found(run, "NCCL_NET_PLUGIN")
    assert removed is not None
    assert (removed.operation, removed.overridden) == ("unset", (("the image", "spcx"),))
    assert value(made(SPCX, fabric=fabric, network="warn"), "NCCL_NET") is None
    assert value(made(SPCX, fabric=fabric, network="require", nodes=1), "NCCL_NET") is None
    mine = made(SPCX, fabric=fabric, network="require", env=("NCCL_NET_PLUGIN=/mine.so", "NCCL_NET=Socket"))
    assert (value(mine, "NCCL_NET_PLUGIN"), value(mine, "NCCL_NET")) == ("/mine.so", "Socket")


def test_slingshot_names_its_provider_and_the_plugin_that_is_there() -> None:
    run = made(OFI, fabric="slingshot", network="require")
    assert (value(run, "FI_PROVIDER"), value(run, "NCCL_NET_PLUGIN")) == ("cxi", OFI.path)
    assert [text for text in made(SPCX, fabric="slingshot").warnings if "no aws-ofi-nccl" in text]
    assert value(made(OFI, fabric="slingshot", env=("FI_PROVIDER=verbs",)), "FI_PROVIDER") == "verbs"


def test_an_nvlink_domain_of_several_nodes() -> None:
    run = made(fabric="infiniband", preset={"A": "b"}, **NVL72)
    for name in ("NCCL_MNNVL_ENABLE", "NCCL_NVLS_ENABLE", "NCCL_NET_GDR_C2C"):
        assert value(run, name) == "1"
    assert value(run, "NVIDIA_IMEX_CHANNELS", "host") == "0"
    stated = made(fabric="infiniband", preset={"A": "b"}, host_env={"NVIDIA_IMEX_CHANNELS": "all"}, **NVL72)
    imex = found(stated, "NVIDIA_IMEX_CHANNELS", "host")
    assert imex is not None
    assert (imex.value, imex.overridden) == ("all", (("NVLink domain of 18 nodes", "0"),))
    alone = made(fabric="infiniband", preset={"A": "b"}, nodes=1, **NVL72)
    assert value(alone, "NCCL_MNNVL_ENABLE") is None
    assert value(made(fabric="infiniband", runtime="bwrap", **NVL72), "NVIDIA_IMEX_CHANNELS", "host") is None


def test_what_the_job_looks_for() -> None:
    run = made(OFI, fabric="efa", network="require", nics_per_node=32)
    assert run.argv["options"]["network"] == {
        "policy": "require",
        "fabric": "efa",
        "nodes": 2,
        "ranks_per_node": 8,
        "nvlink_domain": False,
        "nics_per_node": 32,
        "gdr": True,
        "sharp": False,
    }
    assert run.argv["options"]["numa_binding"] is True
    assert made(OFI, fabric="efa", network="off").argv["options"]["network"] is None
    nothing = plan(profile=cluster(gpus_per_node=8, numa_binding=False))
    assert nothing.argv["options"]["network"] is None
    assert nothing.argv["options"]["numa_binding"] is False
    assert nothing.network is None
    told = made(fabric="infiniband", preset={"A": "b"}, **NVL72).argv["options"]["network"]
    assert told is not None
    assert (told["policy"], told["nvlink_domain"], told["nics_per_node"]) == ("warn", True, None)


def test_on_cpu_nccl_gets_no_variables_and_the_expectation_stands() -> None:
    run = plan(profile=cluster(gpus_per_node=2, device="cpu", fabric="efa"), request={"nodes": 2})
    assert not [one for one in run.environment if one.origin == "fabric efa"]
    network = run.argv["options"]["network"]
    assert network is not None
    assert network["fabric"] == "efa"


_NAMES = st.sampled_from(
    [
        *("NCCL_NET", "NCCL_NET_PLUGIN", "FI_PROVIDER", "NCCL_MNNVL_ENABLE", "NCCL_NVLS_ENABLE", "NCCL_COLLNET_ENABLE"),
        *("NVLINK_DOMAIN_SIZE", "CUDA_DEVICE_MAX_CONNECTIONS", "NCCL_ALGO", "NCCL_PROTO", "DEEP_EP_BACKEND"),
    ]
)
_TEXTS = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF), max_size=12)
_PLUGINS = st.one_of(st.none(), st.lists(st.sampled_from([OFI, OLD_OFI, NAMELESS, SPCX, SHARP]), max_size=3))
_PROFILES = st.fixed_dictionaries(
    {
        "fabric": st.sampled_from([None, *FABRICS]),
        "network": st.sampled_from(["require", "warn", "off"]),
        "sharp": st.booleans(),
        "device": st.sampled_from(["gpu", "cpu", "auto"]),
        "gpu": st.sampled_from([None, "H100", "GB200"]),
        "topology": st.sampled_from([None, "block"]),
        "nvlink_domain_nodes": st.sampled_from([1, 2, 9, 18]),
        "gpus_per_node": st.sampled_from([1, 4, 6, 8]),
        "env": st.dictionaries(_NAMES, _TEXTS, max_size=3),
        "directives": st.sampled_from([{}, {"segment": 4}, {"segment": "x"}, {"segment": False}, {"segment": True}]),
    }
)
_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "model.tensor_model_parallel_size": st.sampled_from(["1", "2", "4", "8", "3"]),
        "model.context_parallel_size": st.sampled_from(["1", "2", "8"]),
        "model.pipeline_model_parallel_size": st.sampled_from(["1", "2", "4"]),
        "model.expert_model_parallel_size": st.sampled_from(["1", "8", "16", "64", "128", "${x}", "null"]),
        "model.expert_tensor_parallel_size": st.sampled_from(["1", "2"]),
        "model.moe_token_dispatcher_type": st.sampled_from(["flex", "alltoall", "allgather", "null"]),
        "model.moe_flex_dispatcher_backend": st.sampled_from(["deepep", "hybridep", "ncclep", "other"]),
        "model.moe_enable_deepep": st.sampled_from(["true", "false"]),
    },
)


@given(
    profile=_PROFILES,
    plugins=_PLUGINS,
    changes=_CHANGES,
    nodes=st.integers(1, 40),
    user=st.dictionaries(_NAMES, _TEXTS, max_size=3),
    preset=st.dictionaries(_NAMES, _TEXTS, max_size=3),
    segment=st.sampled_from([None, "2", "5", "x", False]),
    backends=st.sets(st.sampled_from(["deepep", "nccl-gin", "uccl"])),
)
def test_a_users_value_always_wins_and_is_shown_and_nothing_but_a_refusal_is_raised(
    profile: dict[str, Any],
    plugins: list[NcclNetPlugin] | None,
    changes: dict[str, str],
    nodes: int,
    user: dict[str, str],
    preset: dict[str, str],
    segment: str | bool | None,
    backends: set[str],
) -> None:
    inside = image(
        net_plugins=None if plugins is None else tuple(plugins), environment=preset, moe_backends=tuple(backends)
    )
    try:
        run = plan(
            profile=cluster(runtime="pyxis", image="nemo", **profile),
            request={
                "nodes": nodes,
                "env": tuple(f"{name}={text}" for name, text in user.items()),
                "sbatch": {} if segment is None else {"segment": segment},
            },
            changes=tuple(f"{key}={text}" for key, text in changes.items()),
            inside=inside,
        )
    except RequestError as error:
        assert error.message
        return
    run.to_json()
    for name, text in user.items():
        winner = found(run, name)
        assert winner is not None
        assert (winner.value, winner.origin) == (text, "--env")
        losers = {origin for origin, _ in winner.overridden}
        if profile["env"].get(name, text) != text:
            assert "cluster profile test" in losers
        if preset.get(name, text) != text:
            assert "the image" in losers
    for name, text in profile["env"].items():
        if name not in user:
            winner = found(run, name)
            assert winner is not None
            assert winner.value == text
