"""Contents of an image, found in its files without running any of them.

Each finding is a function of a `Tree`, so that a directory about to be packed and a finished image are read alike.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher._util.shell import Shell
from launcher.contract.variables import is_secret
from launcher.images.inspect import packages, plugins
from launcher.images.inspect.elf import machine
from launcher.images.inspect.squashfs import made_at, read_superblock
from launcher.images.inspect.tree import SquashTree, Tree
from launcher.images.manifest import Contents, ImageSource, Manifest, utc_now

ENVIRONMENT = "/etc/environment"
VERSIONS = "/etc/launcher/versions.json"
"""A JSON object, version by name, which the last stage of an image's build writes after importing everything; beside
them `moe_backends`: a list of names."""

_TEXT_LIMIT = 1 << 20
_PROGRAM_LIMIT = 32 << 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTED = re.compile(r"[\"'](.*)[\"']\s*")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PROGRAMS = (
    "/bin/sh",
    "/bin/bash",
    "/usr/bin/env",
    "/usr/bin/python3",
    "/lib64/ld-linux-*.so.*",
    "/lib/ld-linux-*.so.*",
)
"""Programs that decide the architecture, the first that exists: every image that can be started has a shell."""

_BACKENDS = "moe_backends"
_GIN_SINCE = (2, 28)


def architecture(tree: Tree) -> str | None:
    """Return the architecture of the image's programs, as `uname -m` prints it; None if no program shows it."""
    found = {one.path: one for one in tree.find(_PROGRAMS)}
    paths = [path for pattern in _PROGRAMS for path in sorted(found) if _fits(pattern, path)]
    contents = tree.read(list(dict.fromkeys(paths)), _PROGRAM_LIMIT)
    return next((name for path in paths if (name := machine(contents.get(path, b"")))), None)


def prepare(tree: Tree) -> None:
    """Read at once the files that the findings need in every image: each reading of an image starts a program."""
    programs = [one.path for one in tree.find(_PROGRAMS)]
    tree.read([*programs, ENVIRONMENT, VERSIONS, *packages.FILES], _PROGRAM_LIMIT)


def environment(tree: Tree) -> dict[str, str]:
    """Return the variables that the image sets, as enroot understands /etc/environment.

    enroot writes it line by line from the configuration of the image (`src/docker.sh`, docker::configure) and reads it
    back (`src/common.sh`, common::envfmt) without spaces at the start, comments, lines that are not NAME=VALUE, names
    that start with ENROOT_, and one pair of quotes around the value. The last line of a name counts. A `${NAME}` in a
    value stays as it stands: enroot fills it in from the host on which the container starts.
    """
    text = tree.read([ENVIRONMENT], _TEXT_LIMIT).get(ENVIRONMENT, b"").decode(errors="replace")
    found: dict[str, str] = {}
    for line in text.split("\n"):
        name, equals, value = line.lstrip().partition("=")
        if equals and _NAME.fullmatch(name) and not name.startswith("ENROOT_"):
            quoted = _QUOTED.fullmatch(value)
            found[name] = quoted[1] if quoted else value
    return found


def without_secrets(variables: Mapping[str, str]) -> dict[str, str | None]:
    """Return the variables with None in place of each secret-like name's value."""
    return {name: None if is_secret(name) else value for name, value in variables.items()}


def inspect_tree(tree: Tree, variables: Mapping[str, str]) -> Contents:
    """Return the contents of an image; `variables`: its environment."""
    library_path = directories(variables.get("LD_LIBRARY_PATH", ""))
    interpreter = python(tree, variables)
    places = packages.site_directories(interpreter, directories(variables.get("PYTHONPATH", "")))
    # One walk for everything: the functions below find the answers cached.
    tree.find([*packages.patterns(places, library_path), *plugins.patterns(library_path)])
    declared = read_versions(tree)
    versions = packages.versions(tree, places, library_path)
    if version := plugins.ofi_version(tree, library_path):
        versions["aws-ofi-nccl"] = version
    return Contents(
        packages=dict(sorted(versions.items())),
        python=interpreter,
        network_plugins=plugins.network_plugins(tree, library_path),
        moe_backends=moe_backends(tree, places, library_path, versions, declared),
        verified={name: str(found) for name, found in declared.items() if name != _BACKENDS and _is_version(found)},
    )


def describe(image: Path, shell: Shell) -> Manifest:
    """Describe any squashfs file, without its digest: for files that have no manifest.

    Raises ImageError if it is not a readable image, MissingProgramError without unsquashfs.
    """
    superblock = read_superblock(image)
    found = describe_tree(SquashTree(image, shell), size_bytes=superblock.file_bytes, created=made_at(superblock))
    return found.model_copy(update={"compression": superblock.compression})


def describe_tree(
    tree: Tree,
    *,
    size_bytes: int = 0,
    created: str | None = None,
    source: ImageSource | None = None,
    tools: dict[str, str] | None = None,
    compression: str | None = None,
) -> Manifest:
    """Describe a root file system: `DirectoryTree(root)` of one about to be packed, or one inside an image.

    The store fills in digest and size with `model_copy`.
    """
    prepare(tree)
    variables = environment(tree)
    return Manifest(
        size_bytes=size_bytes,
        architecture=architecture(tree),
        created=created or utc_now(),
        source=source,
        tools=tools or {},
        compression=compression,
        environment=without_secrets(variables),
        contents=inspect_tree(tree, variables),
    )


def python(tree: Tree, variables: Mapping[str, str]) -> str | None:
    """Return the path of the `python3` that the image's PATH finds first."""
    candidates = [f"{place}/python3" for place in directories(variables.get("PATH", _DEFAULT_PATH))]
    there = {one.path for one in tree.find(candidates) if one.kind == "file"}
    return next((path for path in candidates if path in there), None)


def read_versions(tree: Tree) -> dict[str, Any]:
    """Return the object that the image's build wrote to /etc/launcher/versions.json; empty if it cannot be read."""
    try:
        found = json.loads(tree.read([VERSIONS], _TEXT_LIMIT).get(VERSIONS, b"{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def moe_backends(
    tree: Tree,
    places: Sequence[str],
    library_path: Sequence[str],
    versions: Mapping[str, str],
    declared: Mapping[str, Any],
) -> tuple[str, ...]:
    """Return the back ends of expert parallelism that were found, and those that the image's build declares.

    `hybridep` is DeepEP's hybrid-ep branch: `deep_ep/hybrid_ep_buffer.py`. `nccl-gin` needs NCCL 2.28 and a plugin
    that exports the interface.
    """
    there = {
        one.path.rpartition("/")[2] for one in tree.find([f"{place}/{name}" for place in places for name in _MODULES])
    }
    there |= {
        one.path.rpartition("/")[2] for one in tree.find([f"{place}/deep_ep/hybrid_ep_buffer.py" for place in places])
    }
    found = {
        "deepep": "deep_ep" in there or "deep-ep" in versions,
        "hybridep": "hybrid_ep_buffer.py" in there,
        "nccl-gin": _at_least(versions.get("nccl"), _GIN_SINCE) and plugins.declares_gin(tree, library_path),
        "nvshmem": "nvshmem" in versions,
        "uccl": "uccl" in there or "uccl" in versions,
    }
    listed = declared.get(_BACKENDS, [])
    named = {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
    return tuple(sorted({name for name, is_there in found.items() if is_there} | named))


_MODULES = ("deep_ep", "uccl")


def directories(search_path: str) -> list[str]:
    """Return the absolute directories of a variable such as PATH, without wildcards of their own."""
    parts = dict.fromkeys(part.rstrip("/") for part in search_path.split(":") if part.startswith("/"))
    return [part for part in parts if part and not set(part) & set("*?[$")]


def _is_version(found: object) -> bool:
    return isinstance(found, str | int | float) and not isinstance(found, bool)


def _at_least(version: str | None, least: tuple[int, ...]) -> bool:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version or "")[: len(least)])
    return numbers >= least


def _fits(pattern: str, path: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", "[^/]*"), path) is not None
