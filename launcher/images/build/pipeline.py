"""The steps that builds and imports share: from a root file system to an image of the store."""

import platform
from collections.abc import Sequence
from pathlib import Path

from launcher._util.errors import ImageError
from launcher._util.shell import Shell
from launcher.contract.events import ProgressListener
from launcher.images.build import containers, pack
from launcher.images.build.engines import Engine, EngineImage
from launcher.images.build.layout import Layout, layout_of
from launcher.images.build.pack import Compression
from launcher.images.inspect.contents import describe
from launcher.images.manifest import ImageSource, Manifest, utc_now
from launcher.images.store import space
from launcher.images.store.building import Building
from launcher.images.store.lock import LeaseHolder, OnWait
from launcher.images.store.store import Store, StoredImage

IMAGE = "image.sqsh"
"""The file's name in a workspace."""


def pack_engine_image(
    engine: Engine,
    image: EngineImage,
    source: str,
    workspace: Path,
    compression: Compression,
    shell: Shell,
    report: ProgressListener,
) -> tuple[Path, dict[str, str]]:
    """Get an image's files out of the engine and pack them; return the file and the tools with their versions."""
    root = workspace / "root"
    if image.size_bytes is not None:
        space.require(workspace, image.size_bytes, "the unpacked image")
    with pack.full_disk(workspace, image.size_bytes):
        containers.export(engine, image, root, shell, report)
    tools = pack_tree(root, layout_of(image.config, source), workspace / IMAGE, compression, shell, report)
    return workspace / IMAGE, {engine.name: engine.version, **tools}


def pack_tree(
    root: Path, layout: Layout, output: Path, compression: Compression, shell: Shell, report: ProgressListener
) -> dict[str, str]:
    """Report the layout's warnings and pack; see `pack.pack`."""
    for warning in layout.warnings:
        report.line(f"warning: {warning}")
    return pack.pack(root, layout, output, compression, shell, report)


def publish_image(
    building: Building,
    file: Path,
    source: ImageSource,
    tools: dict[str, str],
    compression: Compression | None,
    architecture: str | None,
    names: Sequence[str],
    shell: Shell,
    report: ProgressListener,
) -> StoredImage:
    """Inspect the finished file, check that it is for the right machines, and put it into the store.

    Raises ImageError for another architecture than `architecture`.
    """
    report.stage("inspecting the image")
    found = describe(file, shell)
    check_architecture(found, architecture, source.text)
    manifest = found.model_copy(
        update={
            "source": source,
            "tools": tools,
            "created": utc_now(),
            "compression": str(compression) if compression else found.compression,
            "packing": pack.RULES,
        }
    )
    report.stage("adding it to the store")
    return building.add(file, manifest, names)


def check_architecture(manifest: Manifest, wanted: str | None, text: str) -> None:
    """Raise ImageError if the image is known to be for other machines than `wanted` (as `uname -m` prints it)."""
    if wanted is None or manifest.architecture is None or manifest.architecture == wanted:
        return
    raise ImageError(
        f"the image is for {manifest.architecture}, not for {wanted}",
        where=text,
        hint="A registry may hold one image for each architecture under one name. Use "
        f"--architecture {manifest.architecture}, or another image.",
    )


def target_architecture(architecture: str | None) -> str:
    """Return the given architecture, or this machine's."""
    return architecture or platform.machine()


def report_waiting(report: ProgressListener, what: str) -> OnWait:
    """Return a function that reports which process is making the same image."""

    def report_holder(holder: LeaseHolder) -> None:
        report.stage(f"waiting: {what} is being made by {holder.owner}")

    return report_holder


def reusable(
    store: Store, kind: str, digest: str | None, architecture: str, compression: str | None
) -> StoredImage | None:
    """Return an image of the store that was made from the same source by the same rules.

    Then nothing has to be fetched or packed.
    """
    for entry in store.entries() if digest else []:
        manifest = entry.manifest
        if manifest is None or manifest.source is None or entry.problem is not None:
            continue
        same = manifest.source.kind == kind and manifest.source.digest == digest
        fits = manifest.architecture in (None, architecture) and compression in (None, manifest.compression)
        if same and fits and manifest.packing == pack.RULES:
            return entry
    return None


def add_names(building: Building, entry: StoredImage, names: Sequence[str]) -> StoredImage:
    """Give an image of the store further names, if it lacks any of them."""
    if entry.manifest is None or {name.removesuffix(".sqsh") for name in names} <= set(entry.names):
        return entry
    return building.add_names(entry, names)
