"""The environment linter: each rule bites where it should, says who set it, and keeps silent elsewhere."""

from typing import Any

import pytest

from launcher.planning import environment_lint
from launcher.planning.model import Variable
from tests.support.building import cluster, image, plan

EFA: dict[str, Any] = {"fabric": "efa"}
IB: dict[str, Any] = {"fabric": "infiniband"}
RACK: dict[str, Any] = {"fabric": "infiniband", "nvlink_domain_nodes": 18}
SHARP: dict[str, Any] = {"fabric": "infiniband", "sharp": True}


def said(name: str, value: str | None, profile: dict[str, Any], origin: str = "--env", nodes: int = 2) -> list[str]:
    variable = Variable(name, value, origin, "task" if value is not None else "inherited")
    return list(environment_lint.warnings([variable], environment_lint.LintContext(cluster(**profile), nodes)))


@pytest.mark.parametrize(
    ("name", "value", "profile", "kind"),
    [
        ("FI_EFA_USE_DEVICE_RDMA", "1", EFA, "obsolete"),
        ("FI_EFA_FORK_SAFE", "1", EFA, "obsolete"),
        ("RDMAV_FORK_SAFE", "1", EFA, "obsolete"),
        ("RDMAV_HUGEPAGES_SAFE", "1", EFA, "obsolete"),
        ("NCCL_PROTO", "Simple", EFA, "obsolete"),
        ("NCCL_ASYNC_ERROR_HANDLING", "1", {}, "obsolete"),
        ("NCCL_BLOCKING_WAIT", "1", {}, "obsolete"),
        ("NCCL_NET", "Socket", EFA, "contradictory"),
        ("NCCL_NET", "socket", IB, "contradictory"),
        ("NCCL_IB_DISABLE", "1", IB, "contradictory"),
        ("NCCL_NET_PLUGIN", "none", EFA, "contradictory"),
        ("NCCL_NET_PLUGIN", "spcx", EFA, "contradictory"),
        ("NCCL_NET_PLUGIN", "none", SHARP, "contradictory"),
        ("FI_PROVIDER", "tcp", EFA, "contradictory"),
        ("NCCL_SOCKET_IFNAME", "lo", {}, "contradictory"),
        ("NCCL_COLLNET_ENABLE", "0", SHARP, "contradictory"),
        ("NCCL_MNNVL_ENABLE", "0", RACK, "contradictory"),
        ("NCCL_CUMEM_ENABLE", "0", RACK, "contradictory"),
        ("NVIDIA_DRIVER_CAPABILITIES", "utility", RACK, "contradictory"),
        ("NCCL_ALGO", "Ring", {}, "dangerous"),
        ("NCCL_PROTO", "LL128", EFA, "dangerous"),
        ("NCCL_PROTO", "Simple", IB, "dangerous"),
        ("NCCL_P2P_DISABLE", "1", {}, "dangerous"),
        ("NCCL_DEBUG", "TRACE", {}, "dangerous"),
        ("CUDA_LAUNCH_BLOCKING", "1", {}, "dangerous"),
        ("CUDA_VISIBLE_DEVICES", "0,1", {}, "dangerous"),
        ("CUDA_VISIBLE_DEVICES", None, {}, "dangerous"),
    ],
)
def test_a_rule_bites_once_and_names_who(name: str, value: str | None, profile: dict[str, Any], kind: str) -> None:
    (sentence,) = said(name, value, profile, "the image")
    assert sentence.startswith(name)
    assert f"set by the image, is {kind}: " in sentence


@pytest.mark.parametrize(
    ("name", "value", "profile", "nodes"),
    [
        ("RDMAV_FORK_SAFE", "1", IB, 2),
        ("NCCL_NET", "Socket", {"fabric": "ethernet"}, 2),
        ("NCCL_NET", "Socket", {}, 2),
        ("NCCL_NET", "Socket", EFA, 1),
        ("NCCL_IB_DISABLE", "0", IB, 2),
        ("NCCL_IB_DISABLE", "1", EFA, 2),
        ("NCCL_NET_PLUGIN", "none", IB, 2),
        ("NCCL_NET_PLUGIN", "/opt/amazon/ofi-nccl/lib/libnccl-net.so", EFA, 2),
        ("FI_PROVIDER", "efa", EFA, 2),
        ("NCCL_SOCKET_IFNAME", "^docker,lo,veth", {}, 2),
        ("NCCL_MNNVL_ENABLE", "0", IB, 2),
        ("NVIDIA_DRIVER_CAPABILITIES", "compute,utility", RACK, 2),
        ("NCCL_PROTO", "^LL128", {}, 2),
        ("NCCL_DEBUG", "TRACE", {}, 1),
        ("NCCL_DEBUG", "INFO", {}, 64),
        ("CUDA_DEVICE_MAX_CONNECTIONS", "1", {}, 2),
        ("NCCL_PROTO", None, EFA, 2),
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1", {}, 2),
    ],
)
def test_where_a_value_is_right_nothing_is_said(
    name: str, value: str | None, profile: dict[str, Any], nodes: int
) -> None:
    assert said(name, value, profile, nodes=nodes) == []


def test_what_recipes_tune_is_not_a_profiles() -> None:
    (sentence,) = said("CUDA_DEVICE_MAX_CONNECTIONS", "1", {}, "cluster profile mine")
    assert "set by the cluster profile mine" in sentence
    assert said("CUDA_DEVICE_MAX_CONNECTIONS", "32", {}, "the recipe's env_vars") == []


def test_every_rule_has_a_reason_a_remedy_and_a_source() -> None:
    for rule in environment_lint.RULES:
        assert rule.why
        assert rule.instead
        assert "/" in rule.source, rule.name


def test_a_plan_names_what_counts_and_not_what_is_beaten() -> None:
    run = plan(
        profile=cluster(gpus_per_node=8, runtime="pyxis", image="n", fabric="efa", env={"FI_EFA_FORK_SAFE": "1"}),
        request={"nodes": 2, "env": ("NCCL_ALGO=Ring",)},
        inside=image(environment={"NCCL_ASYNC_ERROR_HANDLING": "1", "NCCL_ALGO": "Tree"}),
    )
    found = [text for text in run.warnings if " is obsolete: " in text or " is dangerous: " in text]
    assert len(found) == 3
    assert any("FI_EFA_FORK_SAFE, set by the cluster profile test" in text for text in found)
    assert any("NCCL_ASYNC_ERROR_HANDLING, set by the image" in text for text in found)
    assert any("NCCL_ALGO=Ring, set by --env" in text for text in found)


def test_the_launchers_own_decisions_break_no_rule() -> None:
    for profile in (EFA, IB, RACK, SHARP):
        run = plan(profile=cluster(gpus_per_node=4, **profile), request={"nodes": 2})
        assert not [text for text in run.warnings if "set by" in text]
