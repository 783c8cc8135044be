"""NCCL's plugins in an image: where they are, and the values of NCCL_NET for each.

Sources, as `repository path`:
- NVIDIA/nccl `src/plugin/plugin_open.cc`: the names of the files, `lib` `nccl-{net,tuner,profiler}[-NAME]` `.so`.
- NVIDIA/nccl `src/plugin/net.cc` (ncclNetInit): NCCL_NET is compared with the name in the plugin's structure,
  ignoring case; before its `init` in newer releases, after it in older ones.
- aws/aws-ofi-nccl `src/nccl_ofi_interface_nvidia.cpp`: "Libfabric"; with NCCL_NET="AWS Libfabric" or "OFI" it takes
  that name itself. Up to 1.11.0 it was "AWS Libfabric" only. `src/Makefile.am`: names of its files.
- Mellanox/nccl-rdma-sharp-plugins `src/p2p_plugin.c`, `src/ib_plugin.c`, `src/ucx_plugin.c`, `src/ucx_rma_plugin.c`,
  `src/ucx_uct_plugin.c`: "NCCL RDMA Plugin vN" at first; init replaces it: "IBext_vN", "UCX", "UCX-RMA", "UCX-UCT", ...
The name of Spectrum-X's plugin (`libnccl-net-spcx.so` in HPC-X) is published nowhere: it is read from its structure.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from launcher.images.inspect.elf import plugin_names
from launcher.images.inspect.tree import Tree, TreeEntry
from launcher.images.manifest import NetworkPlugin

PluginKind = Literal["net", "tuner", "profiler"]

PLACES = (
    "/opt/amazon/ofi-nccl/lib",
    "/opt/amazon/ofi-nccl/lib/*-linux-gnu",
    "/opt/amazon/ofi-nccl/lib64",
    "/opt/amazon/aws-ofi-nccl/lib",
    "/opt/aws-ofi-nccl/lib",
    "/opt/aws-ofi-nccl/install/lib",
    "/opt/hpcx/*/lib",
    "/opt/nccl*/lib",
    "/opt/nccl*/build/lib",
    "/usr/local/nccl*/lib",
    "/usr/local/gib/lib64",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/lib/*-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib/*-linux-gnu",
    "/lib64",
)
"""Where plugins of NCCL are looked for, after the directories of the image's LD_LIBRARY_PATH."""

_FILES: tuple[tuple[str, PluginKind], ...] = (
    ("libnccl-net*.so*", "net"),
    ("libnccl-tuner*.so*", "tuner"),
    ("libnccl-ofi-tuner*.so*", "tuner"),  # as aws-ofi-nccl names it besides
    ("libnccl-profiler*.so*", "profiler"),
)
_READ_LIMIT = 64 << 20  # bytes of a plugin: the real ones have up to a few MB
_MOST = 64  # plugins whose binary is read

# Whole strings of C in the binary: names that a plugin takes only when it runs.
_NAMES = re.compile(
    rb"(?<=\0)"
    rb"(Libfabric|AWS Libfabric|OFI|IBext(?:_v\d+)?|NCCL RDMA Plugin(?: v\d+)?|UCX(?:-RMA|-UCT(?:-RD)?)?|gIB)"
    rb"(?=\0)"
)
_OFI_VERSION = re.compile(rb"aws-ofi-nccl (\d[\w.+-]*)")  # PACKAGE_STRING, which it logs when it starts


def patterns(library_path: Sequence[str]) -> list[str]:
    """Return the patterns of all files that may be plugins; `library_path`: the directories of LD_LIBRARY_PATH."""
    return [f"{place}/{name}" for place in (*library_path, *PLACES) for name, _ in _FILES]


def network_plugins(tree: Tree, library_path: Sequence[str]) -> tuple[NetworkPlugin, ...]:
    """Return the plugins of an image, each once, those that the loader finds first in front."""
    binaries = _binaries(tree, library_path)
    found: dict[tuple[str, PluginKind], NetworkPlugin] = {}
    for one in _files(tree, library_path):
        for name, kind in _FILES:
            if re.fullmatch(_as_regex(name), one.path.rpartition("/")[2]) and (one.real_path, kind) not in found:
                names = net_names(binaries.get(one.real_path, b"")) if kind == "net" else ()
                found[one.real_path, kind] = NetworkPlugin(path=one.real_path, kind=kind, names=names)
    return tuple(found.values())


def net_names(binary: bytes) -> tuple[str, ...]:
    """Return the values of NCCL_NET for a plugin: the names in its structures first, then others in its binary."""
    others = sorted({match[1].decode() for match in _NAMES.finditer(binary)}, key=_version_first)
    return tuple(dict.fromkeys((*plugin_names(binary), *others)))


def ofi_version(tree: Tree, library_path: Sequence[str]) -> str | None:
    """Return the version of aws-ofi-nccl that its plugin logs when it starts."""
    matches = (_OFI_VERSION.search(binary) for binary in _binaries(tree, library_path).values())
    return next((match[1].decode() for match in matches if match), None)


def declares_gin(tree: Tree, library_path: Sequence[str]) -> bool:
    """Return whether a plugin exports NCCL's GIN interface, `ncclGinPlugin_vN` (nccl `src/plugin/gin/gin_v13.cc`)."""
    return any(re.search(rb"\0ncclGinPlugin_v\d+\0", binary) for binary in _binaries(tree, library_path).values())


def _version_first(name: str) -> tuple[str, int]:
    """Order names of one kind by version, the newest first: IBext_v11, IBext_v10, ..., IBext_v9."""
    match = re.fullmatch(r"(.*?v)(\d+)", name)
    return (match[1], -int(match[2])) if match else (name, 0)


def _files(tree: Tree, library_path: Sequence[str]) -> list[TreeEntry]:
    """Return files that may be plugins, in the order of the places."""
    asked = patterns(library_path)
    found = [one for one in tree.find(asked) if one.kind == "file"]
    compiled = [re.compile(_as_regex(pattern)) for pattern in asked]
    return sorted(found, key=lambda one: (_first(compiled, one.path), one.path))


def _first(compiled: Iterable[re.Pattern[str]], path: str) -> int:
    return next((index for index, pattern in enumerate(compiled) if pattern.fullmatch(path)), 1 << 30)


def _as_regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", "[^/]*")


def _binaries(tree: Tree, library_path: Sequence[str]) -> dict[str, bytes]:
    """Return the libraries that may hold a net plugin, by real path."""
    paths = dict.fromkeys(one.real_path for one in _files(tree, library_path) if "/libnccl-net" in one.path)
    return tree.read(list(paths)[:_MOST], _READ_LIMIT)
