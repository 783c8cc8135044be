"""Connections between GPUs and nodes: NVLink, IMEX channels, EFA devices, InfiniBand and RoCE adapters."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...contract.checks import Check, fail, ok, skip, warn
from .expected import Expected
from .gpus import DRAIN
from .probes import Reading, file


@dataclass(frozen=True)
class Nic:
    """A device of /sys/class/infiniband, with its first port."""

    name: str
    vendor: str
    state: str
    """`ACTIVE`, `DOWN`, ...; empty where sysfs has no state."""
    physical: str
    link: str
    """`InfiniBand` or `Ethernet`; for EFA devices whatever the kernel writes."""
    rate: str


def nics(root: Path = Path("/sys/class/infiniband")) -> list[Nic]:
    """Return all devices, sorted by name."""
    return [_nic(entry) for entry in sorted(root.iterdir())] if root.is_dir() else []


def _nic(entry: Path) -> Nic:
    port = next(iter(sorted((entry / "ports").glob("*"))), entry / "ports/1")
    state, physical = (file(port / each).text or "" for each in ("state", "phys_state"))
    return Nic(
        entry.name,
        file(entry / "device/vendor").text or "",
        # `4: ACTIVE`
        state.partition(":")[2].strip() or state,
        physical.partition(":")[2].strip() or physical,
        file(port / "link_layer").text or "",
        file(port / "rate").text or "",
    )


def nic_check(found: Sequence[Nic], expected: Expected) -> Check:
    """Check that there are as many devices of the fabric as the profile says, with active links."""
    name = "nics"
    fabric = expected.network
    if fabric is None or not fabric.rdma:
        return skip(name, f"plain {fabric.title} has no RDMA devices" if fabric else "the profile names no fabric")
    mine = [each for each in found if fabric.owns(each)]
    up = [each for each in mine if each.state == "ACTIVE"]
    wanted = expected.nics_per_node
    value = f"{len(up)} of {wanted or len(mine) or '?'}"
    down = [f"{each.name} ({each.state or 'unknown'}, {each.physical or 'unknown'})" for each in mine if each not in up]
    if not mine:
        return fail(
            name,
            value,
            f"no {fabric.name} device is seen: NCCL would fall back to TCP",
            "outside a container, load the node's driver; inside, /sys or the devices are hidden: see "
            "MELLANOX_VISIBLE_DEVICES and the mounts of /dev/infiniband",
            0,
        )
    if wanted is not None and len(up) < wanted:
        reason = f"{len(mine)} {fabric.name} devices, {len(up)} with an active link; the profile says {wanted}"
        return fail(name, value, f"{reason}{_listed(down)}", f"cable, port or adapter is at fault: {DRAIN}", len(up))
    slow = _slower(up)
    if slow:
        return warn(name, value, f"slower than the others: {', '.join(slow)}", f"a degraded link: {DRAIN}", len(up))
    if wanted is None:
        return skip(name, f"the profile does not say how many to expect (nics_per_node){_listed(down)}", value)
    return ok(name, f"{len(up)} {fabric.name}", len(up))


def _slower(up: Sequence[Nic]) -> list[str]:
    """Return the devices whose rate is below that of most; storage adapters are usually slower too, and fewer."""
    rates = {each.name: float(match[1]) for each in up if (match := re.match(r"([\d.]+)", each.rate))}
    if not rates:
        return []
    usual = Counter(rates.values()).most_common(1)[0][0]
    return [f"{name} ({rate:g} Gb/s instead of {usual:g})" for name, rate in rates.items() if rate < usual]


def _listed(down: Sequence[str]) -> str:
    return f"; down: {', '.join(down)}" if down else ""


def verbs_check(found: Sequence[Nic], devices: Path, expected: Expected) -> Check:
    """Check for what libraries open: /dev/infiniband/uverbs*, one for each device."""
    name = "rdma devices"
    fabric = expected.network
    if fabric is None or not fabric.rdma:
        return skip(name, "the profile names no RDMA fabric")
    mine = [each for each in found if fabric.owns(each)]
    if not mine:
        return skip(name, "no device of the fabric is seen (see nics)")
    there = len(list(devices.glob("uverbs*"))) if devices.is_dir() else 0
    if there < len(mine):
        return fail(
            name,
            f"{there} of {len(mine)}",
            f"{len(mine)} devices are in /sys, but {devices} has {there}: libraries cannot open the others",
            "in a container set MELLANOX_VISIBLE_DEVICES=all in [host_env], or mount /dev/infiniband",
            there,
        )
    return ok(name, str(there), there)


def provider_check(answer: Reading, expected: Expected) -> Check:
    """Check that libfabric offers the fabric's provider: `fi_info -p PROVIDER` lists it."""
    name = "libfabric"
    provider = expected.network.provider if expected.network else None
    if provider is None:
        return skip(name, "the fabric is not reached through libfabric")
    if answer.text is None and "is not installed" in answer.why:
        return skip(name, "fi_info is not installed")
    count = len(re.findall(rf"^provider:\s*{re.escape(provider)}", answer.text or "", re.MULTILINE))
    if count == 0:
        return fail(
            name,
            f"no {provider}",
            f"libfabric offers no provider {provider} ({answer.why or 'fi_info lists others'})",
            "use an image with libfabric and NCCL's plugin for it, and check that /dev/infiniband exists",
        )
    return ok(name, provider)


def nvlink_check(answer: Reading, gpu_count: int) -> Check:
    """Check that every GPU's links are up, and as many as its neighbours have."""
    name = "nvlink"
    if gpu_count == 0:
        return skip(name, "no GPU is seen")
    if answer.text is None:
        return skip(name, answer.why)
    links = parse_nvlink(answer.text)
    if not any(up or down for up, down in links.values()):
        return skip(name, "these GPUs have no NVLink")
    most = max(up for up, _ in links.values())
    short = [f"GPU {gpu}: {up} of {max(most, up + down)}" for gpu, (up, down) in links.items() if down or up < most]
    if short:
        return fail(
            name,
            ", ".join(short),
            "links are down: collectives on this node run at the speed of the slowest pair",
            f"reset the GPUs or reboot (see xid 74), then repair: {DRAIN}",
            min(up for up, _ in links.values()),
        )
    return ok(name, f"{most} links each", most)


def parse_nvlink(text: str) -> dict[str, tuple[int, int]]:
    """Return the numbers of links up and down of each GPU, from `nvidia-smi nvlink --status`."""
    found: dict[str, tuple[int, int]] = {}
    gpu = None
    for line in text.splitlines():
        if match := re.match(r"GPU (\d+):", line):
            gpu = match[1]
            found[gpu] = 0, 0
        elif gpu is not None and (match := re.match(r"\s*Link \d+: (.+)", line)):
            up, down = found[gpu]
            found[gpu] = (up + 1, down) if match[1][0].isdigit() else (up, down + 1)
    return found


def imex_check(devices: Path, expected: Expected) -> Check:
    """Check for an IMEX channel, without which GPUs of different nodes cannot share memory over NVLink."""
    name = "imex"
    if expected.nvlink_domain_nodes == 1:
        return skip(name, "NVLink ends at the node")
    channels = sorted(each.name for each in devices.glob("channel*")) if devices.is_dir() else []
    if not channels:
        return fail(
            name,
            "none",
            f"{devices} has no channel: NCCL cannot use NVLink between nodes",
            "run the service nvidia-imex on all nodes of the rack; a container needs NVIDIA_IMEX_CHANNELS=0 "
            "and the driver capability compute",
            0,
        )
    return ok(name, ", ".join(channels), len(channels))
