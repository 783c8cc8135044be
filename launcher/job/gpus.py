"""The NVIDIA GPU that a rank will use, found before CUDA is loaded.

The driver lists the GPUs of a machine in /proc (in a container those that it was given); nvidia-smi is asked where that
is not enough. Both count in the order of PCI addresses, as CUDA does for GPUs of one kind.
"""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

_SMI = ("nvidia-smi", "--query-gpu=index,uuid,pci.bus_id,name", "--format=csv,noheader")
_SMI_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Gpu:
    """A GPU: its number before CUDA_VISIBLE_DEVICES, and its PCI address."""

    index: int
    uuid: str
    address: str
    """Its PCI address as sysfs writes it: `0000:18:00.0`."""
    name: str = ""


def present() -> tuple[Gpu, ...]:
    """Return the GPUs that this process may open; none where there is no driver."""
    found = from_proc(Path("/proc/driver/nvidia/gpus"), Path("/dev"))
    if found and not any("?" in device.uuid for device in found):
        return found
    try:
        done = subprocess.run(_SMI, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return found
    return from_smi(done.stdout) if done.returncode == 0 else found


def from_proc(directory: Path, devices: Path) -> tuple[Gpu, ...]:
    """Return the GPUs in the driver's directory whose device file can be opened; Slurm's cgroup denies others."""
    found = []
    for path in directory.glob("*/information"):
        try:
            fields = _fields(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue  # the cgroup of the step may hide it
        if _opens(devices / f"nvidia{fields.get('device minor', '')}"):
            found.append((sysfs_address(path.parent.name), fields))
    return tuple(
        Gpu(index, fields.get("gpu uuid", "?"), address, fields.get("model", ""))
        for index, (address, fields) in enumerate(sorted(found, key=lambda each: each[0]))
    )


def from_smi(text: str) -> tuple[Gpu, ...]:
    """Return the GPUs that nvidia-smi lists."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",", 3)]
        if len(cells) == 4 and cells[0].isdecimal():
            found.append(Gpu(int(cells[0]), cells[1], sysfs_address(cells[2]), cells[3]))
    return tuple(found)


def sysfs_address(address: str) -> str:
    """Return the address as sysfs has it: `0000:18:00.0` for nvidia-smi's `00000000:18:00.0`."""
    domain, _, rest = address.partition(":")
    try:
        return f"{int(domain, 16):04x}:{rest}".lower()
    except ValueError:
        return address.lower()


def visible(devices: Sequence[Gpu], environ: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs in CUDA's order, after CUDA_VISIBLE_DEVICES.

    Source: CUDA programming guide, "CUDA Environment Variables".
    """
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return tuple(devices)
    found: list[Gpu] = []
    for token in value.split(","):
        device = _named(devices, token.strip())
        if device is None:
            break  # devices after an invalid one are invisible too
        found.append(device)
    return tuple(found)


def choose(
    devices: Sequence[Gpu], local_rank: int, environ: Mapping[str, str]
) -> "tuple[Optional[Gpu], Optional[str]]":
    """Return the GPU of a rank, or the reason why it is not known."""
    if not devices:
        return None, "no GPU is seen, or CUDA_VISIBLE_DEVICES names none that is known here (a MIG device's UUID)"
    if len({device.name for device in devices}) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return None, "the GPUs are of several kinds, and without CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA sorts them by speed"
    if len(devices) == 1:
        return devices[0], None  # Slurm gave each task one GPU
    if local_rank >= len(devices):
        return None, f"local rank {local_rank} has no GPU of its own among {len(devices)}"
    return devices[local_rank], None


def _named(devices: Iterable[Gpu], token: str) -> Optional[Gpu]:
    """Return the GPU that one word of CUDA_VISIBLE_DEVICES names: a number, (the start of) a UUID, an old MIG name."""
    if token.isdecimal():
        return next((device for device in devices if device.index == int(token)), None)
    parent = re.fullmatch(r"MIG-(GPU-[0-9a-fA-F-]+)/\d+/\d+", token)
    uuid = parent[1] if parent else token
    if not uuid.startswith("GPU-"):
        return None
    found = [device for device in devices if device.uuid.lower().startswith(uuid.lower())]
    return found[0] if len(found) == 1 else None


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _opens(path: Path) -> bool:
    """Return whether this process may use a device file."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True
