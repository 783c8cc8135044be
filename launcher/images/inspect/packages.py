"""Versions of an image's software: Python packages by their metadata directories, libraries by their files."""

import json
import re
from collections.abc import Callable, Sequence

from launcher.contract.profiles import NSYS_PATTERNS
from launcher.images.inspect.tree import Tree

UNKNOWN = "unknown"
"""The version of software that does not state one."""

PYTHON_PACKAGES = frozenset(  # a table of words
    """
    accelerate apex causal-conv1d cuda-python cupy datasets deep-ep deep-gemm einops flash-attn flash-attn-3 fla-core
    flash-linear-attention flashinfer-python grouped-gemm hydra-core lightning mamba-ssm megatron-bridge megatron-core
    megatron-energon megatron-fsdp mpi4py multi-storage-client nemo-run nemo-toolkit numpy nvidia-cudnn nvidia-modelopt
    nvidia-nccl nvidia-nvshmem nvidia-resiliency-ext nvtx omegaconf onnx py-spy safetensors sentencepiece tensorboard
    tiktoken tokenizers torch torchao torchvision transformer-engine transformers triton uccl viztracer wandb
    """.split()  # noqa: SIM905
)
"""Packages that are listed, by names normalised as in PEP 503; others are left out. The CUDA suffix of NVIDIA's
wheels (`-cu12`) is dropped."""

_SITES = (
    "/usr/local/lib/python3*/dist-packages",
    "/usr/local/lib/python3*/site-packages",
    "/usr/local/lib64/python3*/site-packages",
    "/usr/lib/python3/dist-packages",
    "/usr/lib/python3*/site-packages",
    "/usr/lib64/python3*/site-packages",
    "/opt/*/lib/python3*/site-packages",
    "/opt/*/envs/*/lib/python3*/site-packages",
    "/opt/venvs/*/lib/python3*/site-packages",
)
_METADATA = ("*.dist-info", "*.egg-info", "*.egg")
_PLACES = (
    "/usr/lib/*-linux-gnu",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/nccl*/lib",
    "/opt/nccl*/lib",
    "/opt/nccl*/build/lib",
)
_NVSHMEM = (
    "/opt/nvshmem*/lib",
    "/usr/local/nvshmem*/lib",
    "/usr/lib/*-linux-gnu/nvshmem/*",
    "/usr/lib64/nvshmem/*",
    *_PLACES,
)

_EFA = "/opt/amazon/efa_installed_packages"
_HPCX = "/opt/hpcx/VERSION"
_CUDA = "/usr/local/cuda/version.json"
_DPKG = "/var/lib/dpkg/status"
FILES = (_EFA, _HPCX, _CUDA, _DPKG)
"""Files that `versions` reads."""

_PKG_CONFIG = {
    "libfabric": (
        "/opt/amazon/efa/lib*/pkgconfig/libfabric.pc",
        "/opt/libfabric*/lib/pkgconfig/libfabric.pc",
        "/usr/local/lib*/pkgconfig/libfabric.pc",
        "/usr/lib/*-linux-gnu/pkgconfig/libfabric.pc",
        "/usr/lib64/pkgconfig/libfabric.pc",
    ),
    "ucx": (
        "/opt/hpcx/ucx/lib/pkgconfig/ucx.pc",
        "/usr/local/ucx/lib/pkgconfig/ucx.pc",
        "/usr/lib/*-linux-gnu/pkgconfig/ucx.pc",
        "/usr/lib64/pkgconfig/ucx.pc",
    ),
}
_NSYS = tuple(f"/{place}" for place in (*NSYS_PATTERNS, "usr/local/bin/nsys", "usr/bin/nsys"))
_DEBIAN = {"nccl": "libnccl2", "nsys": "nsight-systems-cli", "libfabric": "libfabric1", "aws-ofi-nccl": "libnccl-ofi"}
"""Debian's names, used where the files give no version."""

_TEXT_LIMIT = 1 << 20
_DPKG_LIMIT = 32 << 20


def site_directories(interpreter: str | None, python_path: Sequence[str]) -> list[str]:
    """Return patterns of the directories with Python packages, those of the image's own `python3` first."""
    prefix = interpreter.rpartition("/bin/")[0] if interpreter else ""
    own = [f"{prefix}/lib{bits}/python3*/{kind}-packages" for bits in ("", "64") for kind in ("site", "dist")]
    # Debian's python3 (/usr) looks into /usr/local first
    first = own if prefix not in ("", "/usr") else []
    return list(dict.fromkeys((*python_path, *first, *_SITES)))


def patterns(places: Sequence[str], library_path: Sequence[str]) -> list[str]:
    """Return everything that `versions` and those around it will ask for."""
    configurations = [pattern for group in _PKG_CONFIG.values() for pattern in group]
    libraries = [f"{place}/libnccl.so.2*" for place in (*library_path, *_PLACES)]
    libraries += [f"{place}/libnvshmem_host.so*" for place in (*library_path, *_NVSHMEM)]
    metadata = [f"{place}/{name}" for place in places for name in _METADATA]
    return [*metadata, *libraries, *configurations, *_NSYS, *FILES]


def versions(tree: Tree, places: Sequence[str], library_path: Sequence[str]) -> dict[str, str]:
    """Return the version of each package that is found, by name."""
    found = python_packages(tree, places)
    texts = _texts(tree)
    wheels = {name: found.pop(f"nvidia-{name}", None) for name in ("nccl", "nvshmem", "cudnn")}
    findings: dict[str, Callable[[], str | None]] = {
        # The loader looks into LD_LIBRARY_PATH first, then torch's own wheel, then the system.
        "nccl": lambda: (
            library_version(tree, library_path, "libnccl.so.2")
            or wheels["nccl"]
            or library_version(tree, _PLACES, "libnccl.so.2")
        ),
        "nvshmem": lambda: (
            library_version(tree, library_path, "libnvshmem_host.so")
            or wheels["nvshmem"]
            or library_version(tree, _NVSHMEM, "libnvshmem_host.so")
        ),
        "cudnn": lambda: wheels["cudnn"],
        "cuda": lambda: cuda_version(texts.get(_CUDA, "")),
        "efa-installer": lambda: _matched(r"EFA installer version: *(\S+)", texts.get(_EFA, "")),
        "hpcx": lambda: _matched(r"HPC-X v?(\d\S*)", texts.get(_HPCX, "")),
        "libfabric": lambda: _configured(tree, "libfabric"),
        "ucx": lambda: _configured(tree, "ucx"),
        "nsys": lambda: nsys_version([one.path for one in tree.find(_NSYS)]),
    }
    for name, find in findings.items():
        if version := find():
            found[name] = version
    return debian_versions(tree) | found


def python_packages(tree: Tree, places: Sequence[str]) -> dict[str, str]:
    """Return the tracked Python packages: `NAME-VERSION.dist-info`, `.egg-info` or `NAME-VERSION-pyX.egg`.

    Of a package in several directories the one in the first of `places` counts: Python imports that one.
    """
    found: dict[str, str] = {}
    for place in places:
        for one in tree.find([f"{place}/{name}" for name in _METADATA]):
            stem = re.sub(r"\.(dist-info|egg-info|egg)$", "", one.path.rpartition("/")[2])
            name, _, rest = stem.partition("-")
            normal = re.sub(r"[-_.]+", "-", name).lower()
            normal = re.sub(r"-cu\d+$", "", normal)
            if normal in PYTHON_PACKAGES:
                found.setdefault(normal, re.sub(r"-py3.*$", "", rest) or UNKNOWN)
    return found


def library_version(tree: Tree, places: Sequence[str], name: str) -> str | None:
    """Return the version at the end of a library's real name: `libnccl.so.2.29.3` -> `2.29.3`; None without it.

    `unknown` where the name ends with less than two numbers.
    """
    there = False
    for place in places:
        for one in tree.find([f"{place}/{name}*"]):
            there = True
            if match := re.search(r"\.so\.(\d+\.\d[\d.]*)$", one.real_path):
                return match[1]
    return UNKNOWN if there else None


def cuda_version(text: str) -> str | None:
    """Return the version in CUDA's version.json."""
    try:
        version = json.loads(text)["cuda"]["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return version if isinstance(version, str) else None


def nsys_version(paths: Sequence[str]) -> str | None:
    """Return the newest version that the directories of nsys are named after; None without nsys.

    Where it is Nsight Compute's own nsys, the version is Nsight Compute's: that of the directory.
    """
    found = [match[1] for path in paths if (match := re.search(r"/(20\d\d(?:\.\d+)+)/", path))]
    if not found:
        return UNKNOWN if paths else None
    return max(found, key=lambda version: [int(number) for number in version.split(".")])


def debian_versions(tree: Tree) -> dict[str, str]:
    """Return the versions in dpkg's list, for Debian and Ubuntu."""
    text = tree.read([_DPKG], _DPKG_LIMIT).get(_DPKG, b"").decode(errors="replace")
    found = {}
    for name, package in _DEBIAN.items():
        stanza = re.search(rf"^Package: {re.escape(package)}[\w.-]*\n(?:[^\n]+\n)*?Version: (\S+)", text, re.MULTILINE)
        if stanza:
            found[name] = stanza[1]
    return found


def _texts(tree: Tree) -> dict[str, str]:
    read = tree.read([_EFA, _HPCX, _CUDA], _TEXT_LIMIT)
    return {path: content.decode(errors="replace") for path, content in read.items()}


def _configured(tree: Tree, name: str) -> str | None:
    """Return the version in the first pkg-config file."""
    for pattern in _PKG_CONFIG[name]:
        paths = [one.path for one in tree.find([pattern])]
        for content in tree.read(paths, _TEXT_LIMIT).values():
            if version := _matched(r"(?m)^Version: *(\S+)", content.decode(errors="replace")):
                return version
    return None


def _matched(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None
