"""Which file `--image TEXT` means, and what it is: the only place where the one becomes the other."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher._util.errors import ImageError
from launcher._util.shell import Shell
from launcher.config.cluster import Cluster
from launcher.discovery.files import expanded
from launcher.discovery.host import HostContext

if TYPE_CHECKING:  # a run without a container needs none of it
    from launcher.images.manifest import Manifest
    from launcher.images.reference import Reference
    from launcher.images.store.store import Store


@dataclass(frozen=True)
class NetPlugin:
    """A network plugin of NCCL in an image: its real path, and the names that NCCL_NET may have for it, the one in its
    structure first (launcher/images/inspect/plugins.py)."""

    path: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Image:
    """One image file, as a run needs to know it."""

    name: str
    """As it was asked for."""

    path: Path
    """Absolute; in the store the file named by its content, so that a rebuilt name changes nothing for a queued run."""

    digest: str | None
    """`sha256:...`; None where nobody computed it."""

    architecture: str | None
    """As `uname -m` prints it; None where the image does not tell."""

    size_bytes: int
    environment: Mapping[str, str | None]
    """/etc/environment; None in place of the value of a secret-like name."""

    needed: tuple[str, ...]
    """Paths in the image that its programs need: its python, its python's packages, its network plugins."""

    store: Path | None
    """The store that holds it; None for a file elsewhere."""

    key: str
    """Twelve hexadecimal digits that tell this content from another."""

    unchecked: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    packages: Mapping[str, str] | None = None
    """Versions by name, what the image itself has verified first; None where nothing could be looked at."""

    net_plugins: tuple[NetPlugin, ...] | None = None
    """NCCL's network plugins, those that the loader finds first in front; None where nothing could be looked at."""

    moe_backends: tuple[str, ...] = ()
    """Back ends of expert parallelism, found or declared: deepep, hybridep, nccl-gin, nvshmem, uccl."""


def image_store(cluster: Cluster, environ: Mapping[str, str]) -> "Store":
    """The store of a cluster's profile, whether it exists yet or not.

    Its directory: the profile's `image_store`, else `launcher/images/PROFILE` below XDG_DATA_HOME (~/.local/share).
    """
    from launcher.images.store.store import Store

    if cluster.image_store is not None:
        return Store(Path(expanded(cluster.image_store, environ)).absolute())
    data = environ.get("XDG_DATA_HOME") or expanded("~/.local/share", environ)
    return Store(Path(data).absolute() / "launcher/images" / cluster.name)


def resolve_image(text: str, *, cluster: Cluster, host: HostContext, shell: Shell) -> Image:
    """Find the image that `text` names and check that this cluster can run it, in well under a second.

    `text` is a name in the store, a digest, a reference, or a path. Raises ImageError that says what to do instead,
    or DiskError for a file that cannot be read.
    """
    from launcher.images.verify import check

    store = image_store(cluster, host.environ)
    path = find_image(text, store, cluster, host)
    verified = check(path, architecture=cluster.architecture, shell=shell)
    manifest = verified.manifest
    unchecked = [f"the image: {each}" for each in verified.unchecked]
    if manifest.digest is None:
        unchecked.append("the image: its content against a digest (it is no image of the store)")
    if "PATH" in manifest.environment:
        unchecked.append("PATH in the container: the image's /etc/profile may set another")
    return Image(
        name=text,
        path=path,
        digest=manifest.digest,
        architecture=manifest.architecture,
        size_bytes=manifest.size_bytes,
        environment=dict(manifest.environment),
        needed=_needed(manifest),
        packages={**manifest.contents.packages, **manifest.contents.verified} if manifest.architecture else None,
        net_plugins=_net_plugins(manifest) if manifest.architecture else None,
        moe_backends=manifest.contents.moe_backends,
        store=store.root if path.is_relative_to(store.root) else None,
        key=_key(path, manifest.digest),
        unchecked=tuple(unchecked),
        warnings=verified.warnings,
    )


def find_image(text: str, store: "Store", cluster: Cluster, host: HostContext) -> Path:
    """The file that `text` means: a name in the store, a digest, a reference that was imported, or a path.

    Raises ImageError that says what to do where there is none.
    """
    from launcher.images.reference import looks_like_path, parse_reference
    from launcher.images.store.store import find_file

    if "/" not in text or not looks_like_path(text):
        entry = store.find(text)
        if entry is not None:
            return entry.path
    if "/" not in text and looks_like_path(text):
        raise _no_such_name(text, store, host)
    if looks_like_path(text):
        return _followed(host.directory / expanded(text, {"HOME": host.environ.get("HOME", "~")}), text)
    reference = parse_reference(text)
    directories = [store.root, *(Path(expanded(each, host.environ)) for each in cluster.image_directories)]
    found = find_file(directories, reference)
    if found is None:
        raise _not_imported(text, reference, directories, cluster)
    return _followed(found, text)


def _followed(path: Path, text: str) -> Path:
    """The file behind a symbolic link, so that another one under the same name changes nothing for a queued run.

    The directories stay as they were said: what they are called on this machine, they may not be on a node.
    """
    seen = 0
    while path.is_symlink() and seen < 40:
        path, seen = path.parent / path.readlink(), seen + 1
    if not path.exists():
        others = sorted(other.name for other in path.parent.glob("*.sqsh")) if path.parent.is_dir() else []
        there = f"In {path.parent} there are: {', '.join(others[:8])}." if others else "Check the path."
        raise ImageError(f"there is no image {text}", where=str(path), hint=there)
    return path


def _no_such_name(text: str, store: "Store", host: HostContext) -> ImageError:
    hint = "`launcher image list` shows the names of the store; a file is given as a path: /dir/image.sqsh."
    if (host.directory / text).is_file():
        hint = f"For the file of this directory write ./{text}; `launcher image list` shows the names of the store."
    return ImageError(
        f"there is no image {text!r} in the store, and a name without '/' is no path: pyxis would look for it in a "
        "registry",
        where=str(store.root),
        hint=hint,
    )


def _not_imported(text: str, reference: "Reference", directories: list[Path], cluster: Cluster) -> ImageError:
    option = "" if cluster.name in ("local", "slurm") else f" --cluster {cluster.name}"
    return ImageError(
        f"there is no image {text!r} here: neither a name of the store, nor a reference that was imported",
        where=", ".join(str(directory) for directory in directories),
        hint=f"Import it once, so that no job has to: launcher image import {reference.canonical}{option}",
    )


def _net_plugins(manifest: "Manifest") -> tuple[NetPlugin, ...]:
    return tuple(NetPlugin(one.path, one.names) for one in manifest.contents.network_plugins if one.kind == "net")


def _needed(manifest: "Manifest") -> tuple[str, ...]:
    found = {str(Path(plugin.path).parent) for plugin in manifest.contents.network_plugins}
    if python := manifest.contents.python:
        directory = Path(python).parent
        found |= {str(directory), str(directory.parent / "lib")}
    return tuple(sorted(found))


def _key(path: Path, digest: str | None) -> str:
    if digest is not None:
        return digest.removeprefix("sha256:")[:12]
    stat = path.stat()
    return hashlib.sha256(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()[:12]
