"""The image of a run: finds the file that `--image TEXT` names, and reads what a run needs to know about it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from launcher._util.errors import ImageError
from launcher._util.shell import Shell
from launcher.config.cluster import Cluster
from launcher.contract.frozen import dataclass
from launcher.discovery.files import expanded
from launcher.discovery.host import HostContext

if TYPE_CHECKING:  # a run without a container does not need these
    from launcher.images.manifest import Manifest
    from launcher.images.reference import Reference
    from launcher.images.store.store import Store


@dataclass(frozen=True)
class NcclNetPlugin:
    """A network plugin of NCCL in an image (launcher/images/inspect/plugins.py)."""

    path: str
    """Its path with symbolic links resolved."""
    names: tuple[str, ...]
    """Names that select it as NCCL_NET, first the one in its own structure."""


@dataclass(frozen=True)
class Image:
    """An image file, as a run needs to know it."""

    name: str
    """The name that the user gave."""

    path: Path
    """Absolute path. In the store, the file named by its content, so that rebuilding a name does not change the image
    of a queued run."""

    digest: str | None
    """`sha256:...`; None if it was never computed."""

    architecture: str | None
    """Architecture as `uname -m` prints it; None if the image does not state it."""

    size_bytes: int
    environment: Mapping[str, str | None]
    """The variables of /etc/environment; None replaces the value of a variable that looks like a secret."""

    needed: tuple[str, ...]
    """Directories in the image that its programs need: its Python, that Python's packages, its network plugins."""

    store: Path | None
    """The store that holds the image; None for a file elsewhere."""

    key: str
    """Twelve hexadecimal digits that identify the content."""

    unchecked: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    packages: Mapping[str, str] | None = None
    """Versions of packages by name; those that the image build verified win. None if the image was not readable."""

    net_plugins: tuple[NcclNetPlugin, ...] | None = None
    """NCCL's network plugins in the order in which the loader finds them; None if the image was not readable."""

    moe_backends: tuple[str, ...] = ()
    """Backends of expert parallelism, found or declared: deepep, hybridep, nccl-gin, nvshmem, uccl."""


def image_store(cluster: Cluster, environ: Mapping[str, str]) -> "Store":
    """Return the image store of a cluster profile, whether it exists yet or not.

    Its directory is the profile's `image_store`, else `launcher/images/PROFILE` below XDG_DATA_HOME (~/.local/share).
    """
    from launcher.images.store.store import Store

    if cluster.image_store is not None:
        return Store(Path(expanded(cluster.image_store, environ)).absolute())
    data = environ.get("XDG_DATA_HOME") or expanded("~/.local/share", environ)
    return Store(Path(data).absolute() / "launcher/images" / cluster.name)


def resolve_image(text: str, *, cluster: Cluster, host: HostContext, shell: Shell) -> Image:
    """Find the image that `text` names and check that this cluster can run it; takes well under a second.

    `text` is a name in the store, a digest, a reference, or a path. Raises ImageError if there is no such image or it
    does not suit the cluster, DiskError if the file cannot be read.
    """
    from launcher.images.verify import check

    store = image_store(cluster, host.environ)
    path = find_image(text, store, cluster, host)
    verified = check(path, architecture=cluster.architecture, shell=shell)
    manifest = verified.manifest
    unchecked = [f"the image: {each}" for each in verified.unchecked]
    if manifest.digest is None:
        unchecked.append("the image: its content against a digest (the image is not in the store)")
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
    """Find the file of an image: `text` is a name in the store, a digest, an imported reference, or a path.

    Raises ImageError with a hint if there is no such file.
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
    """Follow a symbolic link, so that replacing the link does not change the image of a queued run.

    Directories keep the names that the user gave: their resolved names on this machine may not exist on a node.
    Raises ImageError if the file does not exist.
    """
    seen = 0
    while path.is_symlink() and seen < 40:
        path, seen = path.parent / path.readlink(), seen + 1
    if not path.exists():
        others = sorted(other.name for other in path.parent.glob("*.sqsh")) if path.parent.is_dir() else []
        hint = f"{path.parent} has: {', '.join(others[:8])}." if others else "Check the path."
        raise ImageError(f"there is no image {text}", where=str(path), hint=hint)
    return path


def _no_such_name(text: str, store: "Store", host: HostContext) -> ImageError:
    hint = "`launcher image list` shows the names in the store; write a file as a path: /dir/image.sqsh."
    if (host.directory / text).is_file():
        hint = f"For the file in this directory write ./{text}; `launcher image list` shows the names in the store."
    return ImageError(
        f"the store has no image {text!r}, and a name without '/' is not a path: pyxis would search a registry for it",
        where=str(store.root),
        hint=hint,
    )


def _not_imported(text: str, reference: "Reference", directories: list[Path], cluster: Cluster) -> ImageError:
    option = "" if cluster.name in ("local", "slurm") else f" --cluster {cluster.name}"
    if "/" in text:
        hint = f"Import it once, instead of in each job: launcher image import {reference.canonical}{option}"
    else:
        hint = (
            "Import it once under this name, from the registry that has it, such as NVIDIA's:\n"
            f"launcher image import nvcr.io/nvidia/{text} --name {text}{option}"
        )
    return ImageError(
        f"there is no image {text!r}: it is neither a name in the store nor an imported reference",
        where=", ".join(str(directory) for directory in directories),
        hint=hint,
    )


def _net_plugins(manifest: "Manifest") -> tuple[NcclNetPlugin, ...]:
    return tuple(NcclNetPlugin(one.path, one.names) for one in manifest.contents.network_plugins if one.kind == "net")


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
