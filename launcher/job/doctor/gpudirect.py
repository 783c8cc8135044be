"""GPUDirect RDMA: what lets adapters reach the memory of GPUs, what slows that down, and a measurement.

Sources: https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html (ACS, IOMMU, nvidia_peermem,
DMA-BUF); the ACS capability: PCI Express Base Specification, 7.7.11 (identifier 0x0D, control register at offset 6).
"""

import platform
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ...contract.checks import Check, fail, ok, skip, warn
from ..network.follower import PEERMEM
from . import probes
from .expected import Expected
from .links import Nic
from .probes import Reading

_DMA_BUF_KERNEL = (5, 12)
_EXTENDED = 0x100
_ACS = 0x0D
_REDIRECTS = 0x04 | 0x08
"""P2P Request Redirect and P2P Completion Redirect, which send traffic between devices through the CPU."""
_BRIDGE = "0x0604"
_LEAST_SHARE = 0.5
"""The share of an adapter's rate below which a write from a GPU's memory is slow."""


def gdr_check(modules: Path, driver: Reading, kernel: str, expected: Expected) -> Check:
    """Check for nvidia_peermem, or for what DMA-BUF needs: the driver's open kernel modules and Linux 5.12."""
    name = "gpudirect"
    why = _none_here(expected)
    if why:
        return skip(name, why)
    if expected.network and expected.network.registers_gpus:
        return skip(name, f"{expected.network.title}'s own driver does it; a run's log of NCCL shows whether")
    loaded = next((each for each in PEERMEM if (modules / each).exists()), None)
    if loaded is not None:
        return ok(name, loaded)
    if driver.text is None:
        return skip(name, f"NVIDIA's driver cannot be asked ({driver.why}), and nvidia_peermem is not loaded")
    version = tuple(int(each) for each in re.findall(r"\d+", kernel)[:2])
    if "Open Kernel Module" in driver.text and version >= _DMA_BUF_KERNEL:
        return ok(name, "DMA-BUF")
    return fail(
        name,
        "none",
        "nvidia_peermem is not loaded, and DMA-BUF needs the driver's open kernel modules and Linux 5.12: data between "
        "nodes would pass through the host's memory",
        "modprobe nvidia_peermem on the node, after the RDMA drivers; or install the driver's open kernel modules",
    )


def acs_check(devices: Path, expected: Expected) -> Check:
    """Check that no PCI bridge redirects traffic between devices to the CPU (Access Control Services)."""
    name = "acs"
    why = _none_here(expected)
    if why:
        return skip(name, why)
    bridges = [each for each in sorted(devices.glob("*")) if (probes.file(each / "class").text or "")[:6] == _BRIDGE]
    if not bridges:
        return skip(name, "no PCI bridge is seen, as in many virtual machines")
    controls = {each.name: acs_control(_bytes(each / "config")) for each in bridges}
    if all(each is None for each in controls.values()):
        return skip(name, "the bridges' registers are for root alone: `sudo lspci -vvv | grep ACSCtl` shows them")
    redirecting = [each for each, control in controls.items() if control and control & _REDIRECTS]
    if redirecting:
        return warn(
            name,
            f"on for {len(redirecting)} of {len(bridges)}",
            f"bridges send traffic between GPUs and adapters through the CPU: {', '.join(redirecting[:4])}",
            "switch ACS off in the firmware, or by setpci in a boot script, on machines without virtual guests",
            len(redirecting),
        )
    return ok(name, "off")


def acs_control(config: bytes) -> Optional[int]:
    """Return the control register of a device's ACS capability, 0 without one; None where it cannot be read."""
    if len(config) <= _EXTENDED:
        return None
    offset, seen = _EXTENDED, set()
    while offset and offset not in seen and offset + 8 <= len(config):
        seen.add(offset)
        header = int.from_bytes(config[offset : offset + 4], "little")
        if header & 0xFFFF == _ACS:
            return int.from_bytes(config[offset + 6 : offset + 8], "little")
        offset = header >> 20
    return 0


def iommu_check(units: Path, command_line: Reading, expected: Expected, machine: Optional[str] = None) -> Check:
    """Check that an IOMMU, where there is one, passes the addresses of devices through."""
    name = "iommu"
    why = _none_here(expected)
    if why:
        return skip(name, why)
    if (machine or platform.machine()) != "x86_64":
        return skip(name, "Grace reaches memory through its IOMMU by design")
    if not units.is_dir() or not any(units.iterdir()):
        return ok(name, "off")
    if command_line.text is None:
        return skip(name, f"it is on, and the kernel's command line cannot be read ({command_line.why})")
    if re.search(r"\biommu(?:\.passthrough)?=(?:pt|1)\b", command_line.text):
        return ok(name, "passes through")
    return warn(
        name,
        "translates",
        "the IOMMU translates each access of an adapter to a GPU, which is slower or fails",
        "boot with iommu=pt, or switch the IOMMU off in the firmware",
    )


def bandwidth_check(found: Sequence[Nic], expected: Expected) -> Check:
    """Write from a GPU's memory through an adapter back to itself with ib_write_bw, where that is installed."""
    name = "gpudirect write"
    why = _none_here(expected)
    if why:
        return skip(name, why)
    mine = [each for each in found if expected.network and expected.network.owns(each) and each.state == "ACTIVE"]
    if not mine or (expected.network and expected.network.registers_gpus):
        return skip(name, "no adapter that ib_write_bw can drive has an active link")
    usage = probes.program(["ib_write_bw", "--help"])
    if "is not installed" in usage.why:
        return skip(name, "ib_write_bw is not installed: perftest, built with CUDA, is needed")
    if "--use_cuda" not in f"{usage.text}{usage.why}":
        return skip(name, "ib_write_bw is built without CUDA (no --use_cuda): perftest, built with CUDA, is needed")
    return judged(loopback(mine[0].name), mine[0])


def judged(answer: Reading, nic: Nic) -> Check:
    """Judge what ib_write_bw printed, against the adapter's own rate."""
    name = "gpudirect write"
    if answer.text is None:
        return warn(
            name,
            "failed",
            f"ib_write_bw from a GPU's memory through {nic.name} failed: {answer.why}",
            "see the check gpudirect; /dev/infiniband and the memory lock limit in the container",
        )
    rows = re.findall(r"^\s*\d+\s+\d+\s+[\d.]+\s+([\d.]+)", answer.text, re.MULTILINE)
    rate = re.match(r"([\d.]+)", nic.rate)
    if not rows:
        return skip(name, "ib_write_bw printed no bandwidth")
    gbits = float(rows[-1])
    if rate is None:
        return skip(name, f"the rate of {nic.name} is not known", f"{gbits:.0f} Gb/s", gbits)
    if gbits < _LEAST_SHARE * float(rate[1]):
        return warn(
            name,
            f"{gbits:.0f} Gb/s",
            f"{nic.name} has {float(rate[1]):.0f} Gb/s: GPU 0 may be far from it, or its traffic goes through the CPU",
            "see the checks acs and iommu",
            gbits,
        )
    return ok(name, f"{gbits:.0f} Gb/s", gbits)


def loopback(device: str, port: int = 18519) -> Reading:
    """Run ib_write_bw as server and client on this node, from the memory of GPU 0, for two seconds."""
    command = ["ib_write_bw", "-d", device, "-p", str(port), "--use_cuda=0", "--report_gbits", "-F", "-D", "2"]
    try:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        return Reading(None, f"ib_write_bw: {error.strerror}")
    try:
        time.sleep(1)  # until it listens
        return probes.program([*command, "localhost"])
    finally:
        server.kill()
        server.wait()


def _none_here(expected: Expected) -> str:
    """Return why GPUDirect RDMA does not matter here; empty where it does."""
    if expected.device == "cpu":
        return "the profile computes on CPUs"
    if expected.network is None:
        return "the profile names no fabric"
    if not expected.network.gdr:
        return f"{expected.network.title} has no GPUDirect RDMA"
    return "" if expected.gdr else "the profile accepts a network without it (gdr = false)"


def _bytes(path: Path) -> bytes:
    """Return the content of a file of /proc or /sys; nothing where the kernel has none."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
