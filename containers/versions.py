"""Import the software of an image, print the versions, and write them to a file: the last step of a build.

    python3 containers/versions.py --output /etc/launcher/versions.json [--require NAME ...] [--only NAME ...]

Each module is tested in a process of its own, so that one that a signal kills is named, too. A module that exists but
cannot be imported ends the build; a missing one ends it only if it is required. Standard library alone, Python 3.10.

The file maps a name to the version that the imported module reports, and `moe_backends` to the names of the
expert-parallel back ends that were found. `launcher/images/inspect/contents.py` reads it.
"""

import argparse
import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MISSING, BROKEN = "missing", "broken"
_LIMIT_S = 600
# Where AWS' installer and NVIDIA's images put libfabric and the plugin (Megatron-Bridge docker/common/
# install_aws_ofi_nccl.sh at 067f987df03b).
_EFA = "/opt/amazon/efa"
_OFI_NCCL = "/opt/amazon/ofi-nccl"


class Missing(Exception):  # noqa: N818 - a state, not a fault
    """The software is not installed."""


@dataclass(frozen=True)
class ProbeResult:
    """The result of one probe. `state` is "ok", "missing" or "broken"; `text` is the version or the reason."""

    name: str
    state: str
    text: str


def module(name: str, distribution: str) -> str:
    """Import a module and return its version: its own, else that of its metadata."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise Missing(f"no module {name}")
    try:
        loaded = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # `megatron.bridge` is missing where only `megatron.core` is; anything else that is missing is a fault.
        if error.name and name.startswith(error.name):
            raise Missing(f"no module {name}") from error
        raise
    version = getattr(loaded, "__version__", None)
    return str(version) if version else importlib.metadata.version(distribution)


def program(name: str, *arguments: str, pattern: str = r"(\d+(?:\.\d+)+[\w.+-]*)") -> str:
    """Return the version that a program prints; look beside this Python first, then on the PATH."""
    path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if path is None:
        raise Missing(f"no program {name}")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, check=True)
    if (found := re.search(pattern, done.stdout + done.stderr)) is None:
        raise ValueError(f"{name} {' '.join(arguments)} printed no version: {done.stdout[:200]!r}")
    return found[1]


def library(name: str) -> ctypes.CDLL:
    """Load a shared library."""
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        # The loader names the library that it did not find: if that is another one, this one is there and broken.
        if str(error).startswith(f"{name}: cannot open"):
            raise Missing(f"no library {name}") from error
        raise


def torch_cuda() -> str:
    """Return the CUDA release that torch was built for."""
    module("torch", "torch")
    version = importlib.import_module("torch").version.cuda
    if version is None:
        raise Missing("torch was built without CUDA")
    return str(version)


def nccl() -> str:
    """Return the version of the NCCL that torch loads, as the library reports it."""
    torch_cuda()
    number = ctypes.c_int()
    library("libnccl.so.2").ncclGetVersion(ctypes.byref(number))
    # nccl.h: major * 10000 + minor * 100 + patch, since 2.9.
    return f"{number.value // 10000}.{number.value // 100 % 100}.{number.value % 100}"


def nvshmem() -> str:
    """Load NVSHMEM's host library and return the version of its wheel."""
    try:
        version = importlib.metadata.version("nvidia-nvshmem-cu13")
    except importlib.metadata.PackageNotFoundError as error:
        raise Missing("no nvidia-nvshmem-cu13") from error
    files = importlib.metadata.files("nvidia-nvshmem-cu13") or []
    hosts = [file for file in files if file.name.startswith("libnvshmem_host.so")]
    if not hosts:
        raise ValueError("nvidia-nvshmem-cu13 holds no libnvshmem_host.so")
    library(str(hosts[0].locate()))
    return version


def libfabric() -> str:
    """Return libfabric's version as its own tool prints it; load its library, too."""
    own = f"{_EFA}/lib/libfabric.so.1"
    loaded = library(own if Path(own).exists() else "libfabric.so.1")
    tool = f"{_EFA}/bin/fi_info"
    if Path(tool).exists():
        return program(tool, "--version", pattern=r"libfabric: (\S+)")
    number: int = loaded.fi_version()
    return f"{number >> 16}.{number & 0xFFFF}"


def aws_ofi_nccl() -> str:
    """Load NCCL's plugin for libfabric and return the version that is written in it."""
    files = sorted(Path(_OFI_NCCL).glob("lib*/**/libnccl-net*.so"))
    if not files:
        raise Missing(f"no libnccl-net*.so below {_OFI_NCCL}")
    library(str(files[0]))
    # src/nccl_ofi_net.cpp logs its PACKAGE_STRING: name and version (aws/aws-ofi-nccl at 2daf7d303aa1).
    found = re.search(rb"aws-ofi-nccl (\d+\.\d+[\w.+-]*)", files[0].read_bytes())
    if found is None:
        raise ValueError(f"{files[0]} does not say its version")
    return found[1].decode()


def rdma_core() -> str:
    """Load libibverbs and the providers of ConnectX and EFA; return the version of the system's package."""
    for name in ("libibverbs.so.1", "libmlx5.so.1", "libefa.so.1"):
        library(name)
    return program("dpkg-query", "--show", "--showformat=${Version}", "libibverbs1")


def hybrid_ep() -> str:
    """Return the version of a DeepEP that has HybridEP, a class of its newer builds."""
    version = module("deep_ep", "deep_ep")
    if not hasattr(importlib.import_module("deep_ep"), "HybridEPBuffer"):
        raise Missing("deep_ep has no HybridEPBuffer")
    return version


PROBES: dict[str, Callable[[], str]] = {
    "python": platform.python_version,
    "torch": lambda: module("torch", "torch"),
    "cuda": torch_cuda,
    "nccl": nccl,
    "triton": lambda: module("triton", "triton"),
    "transformer-engine": lambda: (module("transformer_engine.pytorch", ""), module("transformer_engine", ""))[1],
    "megatron-core": lambda: module("megatron.core", "megatron-core"),
    "megatron-bridge": lambda: module("megatron.bridge", "megatron-bridge"),
    "transformers": lambda: module("transformers", "transformers"),
    "nvidia-resiliency-ext": lambda: module("nvidia_resiliency_ext", "nvidia-resiliency-ext"),
    "nvidia-modelopt": lambda: module("modelopt", "nvidia-modelopt"),
    "viztracer": lambda: module("viztracer", "viztracer"),
    "submitit": lambda: module("submitit", "submitit"),
    "py-spy": lambda: program("py-spy", "--version"),
    "nsys": lambda: program("nsys", "--version"),
    "rdma-core": rdma_core,
    "libfabric": libfabric,
    "aws-ofi-nccl": aws_ofi_nccl,
    "nvshmem": nvshmem,
    "deep-ep": lambda: module("deep_ep", "deep_ep"),
    "hybrid-ep": hybrid_ep,
    "uccl": lambda: module("uccl.ep", "uccl"),
}
# Training needs these on every machine; an image for GPUs requires more (see the Dockerfile).
REQUIRED = ("python", "torch", "megatron-core", "megatron-bridge", "transformers", "viztracer", "submitit")
# Expert-parallel back ends, by the package that brings them.
BACKENDS = {"deep-ep": "deepep", "hybrid-ep": "hybridep", "uccl": "uccl", "nvshmem": "nvshmem"}


def answer(name: str) -> ProbeResult:
    """Run one probe in this process."""
    try:
        return ProbeResult(name, "ok", PROBES[name]())
    except Missing as error:
        return ProbeResult(name, MISSING, str(error))
    except BaseException as error:  # any exception of an imported module is the finding
        return ProbeResult(name, BROKEN, f"{type(error).__name__}: {error}")


def ask(name: str) -> ProbeResult:
    """Run one probe in a process of its own; the last line that it prints is its answer."""
    argv = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--probe", name]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return ProbeResult(name, BROKEN, f"did not end within {_LIMIT_S} s")
    if done.returncode < 0:
        return ProbeResult(name, BROKEN, f"died of {signal.Signals(-done.returncode).name}")
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return ProbeResult(name, BROKEN, f"ended with status {done.returncode}: {done.stderr[-500:]}")
    return ProbeResult(**json.loads(lines[-1]))


def contents(found: Sequence[ProbeResult]) -> dict[str, object]:
    """Return what the file holds."""
    there = {entry.name: entry.text for entry in found if entry.state == "ok"}
    return {**there, "moe_backends": [backend for name, backend in BACKENDS.items() if name in there]}


def faults(found: Sequence[ProbeResult], required: Sequence[str], unchanged: dict[str, object] | None) -> list[str]:
    """Return the faults of the image."""
    wrong = [f"{entry.name} is broken: {entry.text}" for entry in found if entry.state == BROKEN]
    wrong += [f"{entry.name}: {entry.text}" for entry in found if entry.state == MISSING and entry.name in required]
    for entry in found:
        before = (unchanged or {}).get(entry.name)
        if before is not None and entry.state == "ok" and before != entry.text:
            wrong.append(f"{entry.name} {before} of the base image was replaced by {entry.text}")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all probes, print a table, write the file; return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the file to write")
    parser.add_argument("--only", nargs="+", choices=list(PROBES), help="test nothing else")
    parser.add_argument("--require", nargs="*", choices=list(PROBES), help=f"default: {' '.join(REQUIRED)}")
    parser.add_argument("--unchanged", type=Path, help="a file written earlier, whose versions must still be there")
    parser.add_argument("--probe", choices=list(PROBES), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.probe:
        print(f"\n{json.dumps(vars(answer(asked.probe)))}")
        return 0
    names = asked.only or list(PROBES)
    required = [name for name in (REQUIRED if asked.require is None else asked.require) if name in names]
    found = []
    for name in names:
        found.append(ask(name))
        print(f"{name:22} {found[-1].state:8} {found[-1].text}", flush=True)
    wrong = faults(found, required, json.loads(asked.unchanged.read_text()) if asked.unchanged else None)
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    if asked.output and not wrong:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
        asked.output.write_text(json.dumps(contents(found), indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    # Not through sys.exit alone: a module that was imported may leave threads behind that keep Python from ending.
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
