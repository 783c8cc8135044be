"""Why a network is not the expected one: the most telling of what NCCL and the machine say. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Optional

from .expect import Expectation
from .parse import Selected

COMPLETED = 3
"""NVML_GPU_FABRIC_STATE_COMPLETED (nvml.h): the node has joined its NVLink domain."""


@dataclass(frozen=True)
class Place:
    """What can be seen of the place that a rank runs in. None: it was not looked at."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Its variables of NCCL and libfabric, and MELLANOX_VISIBLE_DEVICES."""
    verbs: Optional[bool] = None
    """Whether there is any /dev/infiniband/uverbs*: InfiniBand, RoCE and EFA all need one."""
    imex: Optional[bool] = None
    """Whether there is a channel in /dev/nvidia-caps-imex-channels."""
    memlock: Optional[int] = None
    """How many bytes may be locked in memory; -1 is no limit."""


@dataclass(frozen=True)
class Cause:
    """A likely cause, and the line of NCCL's that speaks for it."""

    words: str
    line: Optional[str] = None


def efa(selected: Selected, place: Place) -> Cause:
    """Why NCCL does not go through libfabric's efa provider."""
    return next(_efa(selected, place))


def _efa(selected: Selected, place: Place) -> Iterator[Cause]:
    yield from _asked_for(place)
    if any(not name.startswith("efa") for name in selected.providers):
        yield Cause(
            "libfabric found no EFA device: pass /dev/infiniband into the container, give FI_PROVIDER no other value, "
            "and load the EFA installer's libfabric",
            selected.line(*(f"provider:{name}" for name in selected.providers)),
        )
    broken = selected.line("plugin_broken")
    if broken:
        yield Cause("the plugin aws-ofi-nccl was found and cannot be loaded (its libfabric, LD_LIBRARY_PATH)", broken)
    loaded = " ".join(each for each in (selected.plugin, selected.plugin_path) if each)
    if loaded and not is_ofi(loaded):
        chosen = place.environment.get("NCCL_NET_PLUGIN")
        how = f"NCCL_NET_PLUGIN={chosen}" if chosen else "the image's default"
        yield Cause(
            f"the plugin {loaded} ({how}) cannot drive EFA: point NCCL_NET_PLUGIN at aws-ofi-nccl's library",
            selected.line("plugin", "plugin_path"),
        )
    if loaded or selected.plugin_version:
        line = selected.line("ofi_failed", "failed:Libfabric", "failed:AWS Libfabric", "plugin", "plugin_path")
        yield Cause(f"aws-ofi-nccl was loaded and found no device that it can use{_no_verbs(place)}", line)
    missing = selected.line("plugin_missing")
    named = place.environment.get("NCCL_NET_PLUGIN")
    wanted = f"the plugin {named} (NCCL_NET_PLUGIN)" if named else "NCCL's plugin for EFA"
    yield Cause(
        f"{wanted} was not found: the image lacks aws-ofi-nccl, or LD_LIBRARY_PATH does not lead to it, "
        "or its file has another name",
        missing,
    )


def verbs(selected: Selected, place: Place) -> Cause:
    """Why NCCL does not use InfiniBand or RoCE."""
    return next(_verbs(selected, place))


def _verbs(selected: Selected, place: Place) -> Iterator[Cause]:
    yield from _asked_for(place)
    if place.environment.get("NCCL_IB_DISABLE", "0") not in ("", "0"):
        yield Cause("NCCL_IB_DISABLE is set")
    failed = selected.line("verbs_failed")
    if failed:
        limit = place.memlock
        memory = "" if limit is None or limit < 0 else f", which is {limit} bytes here (ulimit -l)"
        yield Cause(f"the adapter refused its work: mostly the limit of locked memory{memory}", failed)
    if selected.line("no_verbs") and not selected.line("ib_none"):
        yield Cause("the image has no libibverbs", selected.line("no_verbs"))
    named = place.environment.get("NCCL_IB_HCA")
    visible = place.environment.get("MELLANOX_VISIBLE_DEVICES")
    if place.verbs is False:
        hidden = f"MELLANOX_VISIBLE_DEVICES={visible}" if visible else "MELLANOX_VISIBLE_DEVICES is not set"
        yield Cause(f"no adapter reaches the container: there is no /dev/infiniband/uverbs*, {hidden}", _none(selected))
    if named:
        yield Cause(f"no active port is one of NCCL_IB_HCA={named}", _none(selected))
    yield Cause(
        "NCCL sees no adapter with an active port: its link is down, or the container does not see it "
        "(MELLANOX_VISIBLE_DEVICES, /dev/infiniband)",
        _none(selected),
    )


def mnnvl(selected: Selected, place: Place) -> Cause:
    """Why NVLink does not reach beyond the node."""
    for name in ("NCCL_MNNVL_ENABLE", "NCCL_CUMEM_ENABLE"):
        if place.environment.get(name) == "0":
            return Cause(f"{name}=0 switches it off")
    failed = selected.line("imex")
    if failed:
        return Cause("NVLink memory cannot be shared between nodes: IMEX (channels, nvidia-imex on each node)", failed)
    if place.imex is False:
        return Cause("the rank sees no channel in /dev/nvidia-caps-imex-channels: IMEX is not set up for this job")
    state = selected.fabric_state
    if state is not None and state != COMPLETED:
        return Cause(f"the node has not joined its NVLink domain (fabric state {state})", selected.line("fabric"))
    return Cause(
        "the nodes are not in one NVLink domain, or IMEX does not run on all of them", selected.line("clique", "fabric")
    )


def local(place: Place) -> Cause:
    """Why GPUs of one node do not reach each other directly."""
    for name in ("NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL"):
        if place.environment.get(name):
            return Cause(f"{name}={place.environment[name]}")
    return Cause(
        "the ranks do not see each other's GPUs (--gpus-per-task, --gpu-bind, separate containers), or NVLink is down "
        "(nvidia-smi nvlink --status)"
    )


def fewer(expected: Expectation, place: Place) -> Cause:
    """Why there are fewer NICs than the node has."""
    name = "FI_EFA_IFACE" if expected.fabric == "efa" else "NCCL_IB_HCA"
    if place.environment.get(name):
        return Cause(f"{name}={place.environment[name]} names those")
    return Cause("a link is down, or the container does not see all of /dev/infiniband")


def is_ofi(name: str) -> bool:
    """Whether this names aws-ofi-nccl: "Libfabric", "AWS Libfabric", .../ofi-nccl/lib/libnccl-net.so."""
    return re.search(r"libfabric|(?<![a-z])ofi(?![a-z])", name.lower()) is not None


def _asked_for(place: Place) -> Iterator[Cause]:
    pinned = place.environment.get("NCCL_NET", "")
    if pinned.lower() == "socket":
        yield Cause("NCCL_NET=Socket asks for it")


def _no_verbs(place: Place) -> str:
    return ": there is no /dev/infiniband/uverbs* in the container" if place.verbs is False else ""


def _none(selected: Selected) -> Optional[str]:
    return selected.line("ib_none", "no_verbs")
