"""Imports into the store: from a registry, an engine, a directory, a tarball, a squashfs file."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from launcher._util.errors import DiskError, ImageError
from launcher._util.shell import Shell
from launcher._util.user_paths import exists, user_path
from launcher.contract.events import ProgressListener
from launcher.contract.files import open_regular
from launcher.images import verify
from launcher.images.build import engines, pack, pipeline
from launcher.images.build.files import from_directory, from_tarball
from launcher.images.build.pulling import from_registry, tool_for
from launcher.images.build.registry import engine_architecture
from launcher.images.build.result import ImageOutcome
from launcher.images.manifest import ImageSource
from launcher.images.reference import Reference, looks_like_path, parse_reference
from launcher.images.store import space
from launcher.images.store.building import Building, start_building
from launcher.images.store.store import Store, StoredImage

_MAGIC = b"hsqs"


@dataclass(frozen=True)
class ImportRequest:
    """An import to make; it can be pickled and sent to another machine that sees the same files."""

    source: str
    """As the user names it: nvcr.io/nvidia/nemo:26.08, dockerd://x:latest, ./rootfs, ./rootfs.tar.zst, ./x.sqsh."""

    directory: Path
    """Where a relative path begins."""

    name: str | None = None
    """The name in the store; None is a name made from the source."""

    architecture: str | None = None
    """As `uname -m` prints it; None is this machine's."""

    compression: str | None = None
    """None is the default; a squashfs file is taken as it is."""

    engine: str | None = None
    """enroot, docker, podman or buildah; None is the first that works."""


def import_image(request: ImportRequest, store: Store, shell: Shell, report: ProgressListener) -> ImageOutcome:
    """Import and put the image into the store.

    An image of a registry or an engine that the store has already (by its digest) is not fetched again. Raises
    ImageError for a source that cannot be imported, CommandError, OutsideError and DiskError if the import fails.
    """
    begin = time.monotonic()
    pack.parse_compression(request.compression)
    if looks_like_path(request.source):
        entry, reused = _import_path(request, store, shell, report)
    else:
        reference = parse_reference(request.source)
        import_this = _import_registry if reference.scheme == "docker" else _import_daemon
        entry, reused = import_this(request, reference, store, shell, report)
    return ImageOutcome(entry, reused, time.monotonic() - begin)


_Make: TypeAlias = Callable[[Building], StoredImage]


def _once(
    request: ImportRequest, key: list[str], store: Store, report: ProgressListener, make: _Make
) -> tuple[StoredImage, bool]:
    """Make an image, or take it from another process that makes the same at this moment."""
    text = json.dumps(
        ["import", *key, pipeline.target_architecture(request.architecture), request.compression, request.name]
    )
    with start_building(store, text, on_wait=pipeline.report_waiting(report, request.source)) as building:
        if building.finished is not None:
            return building.finished, True
        return make(building), False


def _import_path(
    request: ImportRequest, store: Store, shell: Shell, report: ProgressListener
) -> tuple[StoredImage, bool]:
    path = user_path(request.source, request.directory, error=ImageError)
    if not exists(path):
        raise ImageError(
            "the file or directory does not exist",
            where=str(path),
            hint="Check the path. An image of a registry is named without ./ or / in front.",
        )
    name = _name(request, path.name)
    if not path.is_dir() and _is_squashfs(path):
        return _once(
            request,
            ["squashfs", str(path)],
            store,
            report,
            lambda it: _squashfs(request, path, name, it, shell, report),
        )
    kind = "directory" if path.is_dir() else "tarball"

    def make(building: Building) -> StoredImage:
        compression = pack.parse_compression(request.compression)
        take = from_directory if kind == "directory" else from_tarball
        tools = take(path, building.workspace, compression, shell, report)
        source = ImageSource(kind="directory" if kind == "directory" else "tarball", text=str(path))
        file = building.workspace / pipeline.IMAGE
        return pipeline.publish_image(
            building, file, source, tools, compression, request.architecture, [name], shell, report
        )

    return _once(request, [kind, str(path)], store, report, make)


def _squashfs(
    request: ImportRequest, path: Path, name: str, building: Building, shell: Shell, report: ProgressListener
) -> StoredImage:
    """Copy a squashfs file, sharing its blocks where the file system can; keep the facts of its manifest."""
    report.stage("checking the file")
    checked = verify.check(path, architecture=request.architecture, shell=shell)
    for warning in checked.warnings:
        report.line(f"warning: {warning}")
    copy = building.workspace / pipeline.IMAGE
    space.require(building.workspace, path.stat().st_size, "the copy")
    report.stage("copying the file")
    with pack.full_disk(building.workspace, path.stat().st_size):
        shell.stream(["cp", "--reflink=auto", "--", str(path.resolve()), str(copy)])
    source = checked.manifest.source or ImageSource(kind="squashfs", text=str(path))
    manifest = checked.manifest.model_copy(update={"source": source, "digest": None})
    report.stage("adding it to the store")
    return building.add(copy, manifest, [name])


def _import_daemon(
    request: ImportRequest, reference: Reference, store: Store, shell: Shell, report: ProgressListener
) -> tuple[StoredImage, bool]:
    own = "docker" if reference.scheme == "dockerd" else "podman"
    if request.engine is not None and (own == "docker" or request.engine != "buildah") and request.engine != own:
        raise ImageError(f"an image of {own} cannot be read with {request.engine}", where="--engine")
    engine = engines.find_engine(shell, request.engine or own)
    image = engines.inspect(engine, reference.engine_name, shell)
    if image is None:
        hint = f"`{engine.name} images` lists its images."
        raise ImageError(f"{engine.name} has no image {reference.engine_name}", where=request.source, hint=hint)
    architecture = pipeline.target_architecture(request.architecture)
    name = _name(request, reference.file_name)
    same = pipeline.reusable(store, "daemon", image.id, architecture, request.compression)
    reused = same is not None

    def make(building: Building) -> StoredImage:
        if same is not None:
            return pipeline.add_names(building, same, [name])
        compression = pack.parse_compression(request.compression)
        file, tools = pipeline.pack_engine_image(
            engine, image, reference.canonical, building.workspace, compression, shell, report
        )
        source = ImageSource(kind="daemon", text=reference.canonical, digest=image.id)
        return pipeline.publish_image(building, file, source, tools, compression, architecture, [name], shell, report)

    entry, waited = _once(request, ["daemon", image.id], store, report, make)
    return entry, waited or reused


def _import_registry(
    request: ImportRequest, reference: Reference, store: Store, shell: Shell, report: ProgressListener
) -> tuple[StoredImage, bool]:
    tool = tool_for(reference, request.engine, shell)
    architecture = pipeline.target_architecture(request.architecture)
    report.stage(f"asking {reference.registry} with {tool.name}")
    digest = tool.digest(architecture, report)
    name = _name(request, reference.file_name)
    same = pipeline.reusable(store, "registry", digest, architecture, request.compression)
    reused = same is not None

    def make(building: Building) -> StoredImage:
        if same is not None:
            return pipeline.add_names(building, same, [name])
        compression = pack.parse_compression(request.compression)
        pulled = from_registry(tool, digest, architecture, building.workspace, compression, report)
        source = ImageSource(
            kind="registry",
            text=reference.canonical,
            digest=pulled.digest,
            platform=f"linux/{engine_architecture(architecture)}",
        )
        return pipeline.publish_image(
            building, pulled.file, source, pulled.tools, compression, architecture, [name], shell, report
        )

    entry, waited = _once(request, ["registry", reference.canonical, digest or ""], store, report, make)
    return entry, waited or reused


def _name(request: ImportRequest, default: str) -> str:
    """Return the file name in the store."""
    if request.name is None:
        return default
    return parse_reference(f"dockerd://{request.name}").file_name if ":" in request.name else request.name


def _is_squashfs(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise DiskError(f"cannot read it: {error.strerror}", where=str(path)) from error
