"""Images: build, import, list, inspect, verify, and collect those that are no longer used."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from launcher._util.errors import ConfigError, ImageError
from launcher._util.shell import LocalShell
from launcher._util.user_paths import is_file, user_path
from launcher.api.locate import find_cluster
from launcher.discovery.image import find_image, image_store
from launcher.images.store.uses import Use, uses_of

if TYPE_CHECKING:
    from launcher.api.progress import Progress
    from launcher.api.task_job import TaskJobOptions
    from launcher.config.cluster import Cluster
    from launcher.config.image import ImageSpec
    from launcher.images.build.build import BuildRequest
    from launcher.images.build.importing import ImportRequest
    from launcher.images.build.result import ImageOutcome
    from launcher.images.store.collect import GcResult
    from launcher.images.store.store import Store, StoredImage
    from launcher.images.verify import VerifiedImage


@dataclass(frozen=True)
class ImageOptions:
    """What building and importing have in common."""

    name: str | None = None
    """The image's name in the store; None for one after what it is made of."""
    architecture: str | None = None
    compression: str | None = None
    engine: str | None = None
    cluster: str | None = None
    """The profile whose store it goes to; None for that of `run`. A job's own cluster counts more."""
    job: "TaskJobOptions | None" = None
    """The job to do it in; None for this machine."""


@dataclass(frozen=True)
class BuildOptions:
    """What to build. Paths are relative to the current directory."""

    spec: str | None = None
    """A description in configs/images; None for `megatron`."""
    file: str | None = None
    """A Dockerfile in place of a description."""
    context: str | None = None
    target: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Files of build secrets by name: a value on a command line could be seen by every user of the machine."""
    link: str | None = None
    """A symbolic link to make to the image."""


@dataclass(frozen=True)
class ListedImage:
    """An image of a store, with the runs that use it."""

    entry: "StoredImage"
    uses: tuple[Use, ...]


@dataclass(frozen=True)
class ImageList:
    """All images of a store."""

    store: "Store"
    images: tuple[ListedImage, ...]


@dataclass(frozen=True)
class InspectedImage:
    """An image file, and its entry where it is of the store."""

    verified: "VerifiedImage"
    stored: ListedImage | None


@dataclass(frozen=True)
class CollectedImages:
    """What was removed from a store, and why the rest stays."""

    store: "Store"
    collected: "GcResult"


def build_image(build: BuildOptions, options: ImageOptions, progress: "Progress") -> "ImageOutcome":
    """Build an image and put it into the store. Raises ConfigError, ImageError, CommandError, DiskError, SlurmError."""
    from launcher.images.build.build import BuildRequest

    cluster, host = find_cluster(options.job.cluster if options.job else options.cluster)
    directory = host.directory
    spec = _spec(build, options.name, directory)
    context = user_path(build.context, directory, where="--context") if build.context else spec.directory / spec.context
    request = BuildRequest(
        dockerfile=spec.directory / spec.dockerfile,
        context=context,
        name=options.name or spec.name,
        target=build.target or spec.target,
        build_args=tuple(sorted({**spec.build_args, **build.build_args}.items())),
        architecture=options.architecture or cluster.architecture,
        engine=options.engine,
        compression=options.compression,
        secrets=_secrets(build.secrets, directory),
    )
    made = _make(request, options, cluster, progress)
    if build.link:
        link = user_path(build.link, directory, where="--link")
        _link(link, made.entry.path)
        progress.info(f"{link} -> {made.entry.path}")
    return made


def import_image(source: str, options: ImageOptions, progress: "Progress") -> "ImageOutcome":
    """Import a reference, a directory, a tarball or a squashfs file into the store. Raises as `build_image`."""
    from launcher.images.build.importing import ImportRequest

    cluster, host = find_cluster(options.job.cluster if options.job else options.cluster)
    request = ImportRequest(
        source=source,
        directory=host.directory,
        name=options.name,
        architecture=options.architecture or cluster.architecture,
        compression=options.compression,
        engine=options.engine,
    )
    return _make(request, options, cluster, progress)


def _make(
    request: "BuildRequest | ImportRequest", options: ImageOptions, cluster: "Cluster", progress: "Progress"
) -> "ImageOutcome":
    from launcher.images.build import importing
    from launcher.images.build.build import BuildRequest, build

    store = image_store(cluster, os.environ)
    if options.job is not None:
        return _make_in_job(request, store, cluster, options.job, progress)
    if isinstance(request, BuildRequest):
        return build(request, store, LocalShell(), progress)
    return importing.import_image(request, store, LocalShell(), progress)


def _make_in_job(
    request: "BuildRequest | ImportRequest",
    store: "Store",
    cluster: "Cluster",
    job: "TaskJobOptions",
    progress: "Progress",
) -> "ImageOutcome":
    from launcher.api.task_job import perform_in_job
    from launcher.images.build.remote import perform

    made: ImageOutcome = perform_in_job(
        perform,
        (request, store.root),
        job=job,
        cluster=cluster,
        name="image",
        tasks=store.root / "tasks",
        progress=progress,
    )
    return made


def _secrets(files: Mapping[str, str], directory: Path) -> tuple[tuple[str, Path], ...]:
    found = []
    for name, file in files.items():
        path = user_path(file, directory, where="--secret")
        if not is_file(path):
            raise ConfigError(
                f"there is no file {path}",
                where="--secret",
                hint="The file holds the secret; the build sees it as NAME.",
            )
        found.append((name, path))
    return tuple(found)


def _spec(build: BuildOptions, name: str | None, directory: Path) -> "ImageSpec":
    """Return the description that is meant: a shipped one, or that of a Dockerfile alone. Raises ConfigError."""
    from launcher.config.image import ImageSpec, load_image_spec

    if build.file is None:
        return load_image_spec(build.spec or "megatron", os.environ)
    if build.spec is not None:
        raise ConfigError("SPEC and --file both say what to build", hint="Give one of them.")
    file = user_path(build.file, directory, where="--file")
    # As docker does: without a name of its own, the image is called after the directory that is built.
    name = name or f"{file.resolve().parent.name.lower()}:latest"
    return ImageSpec(dockerfile=file.name, context=".", name=name, directory=file.parent)


def _link(link: Path, image: Path) -> None:
    """Make a symbolic link to the image, replacing an older link but never a file. Raises ImageError."""
    if link.exists() and not link.is_symlink():
        raise ImageError("there is a file of that name already", where=str(link), hint="Move it away, then link again.")
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(image)
    partial.replace(link)


def list_images(cluster: str | None = None) -> ImageList:
    """Return all images of a profile's store. Raises ConfigError, DiskError."""
    found, host = find_cluster(cluster)
    store = image_store(found, host.environ)
    entries = [*store.entries(), *store.plain_files()]
    return ImageList(store, tuple(_stored(store, entry) for entry in entries))


def inspect_image(name: str, cluster: str | None = None) -> InspectedImage:
    """Return all that is known of an image: a name of the store, a digest, a reference or a file. Raises ImageError."""
    from launcher.images.verify import check

    found, host = find_cluster(cluster)
    store = image_store(found, host.environ)
    verified = check(find_image(name, store, found, host), architecture=None, shell=LocalShell())
    entry = next((each for each in store.entries() if each.path == verified.path), None)
    return InspectedImage(verified, _stored(store, entry) if entry else None)


def verify_image(name: str, cluster: str | None = None, *, checksum: bool = False) -> "VerifiedImage":
    """Check an image's format, size and architecture, and with `checksum` every byte. Raises ImageError."""
    from launcher.images.verify import check

    found, host = find_cluster(cluster)
    path = find_image(name, image_store(found, host.environ), found, host)
    return check(path, architecture=found.architecture, shell=LocalShell(), checksum=checksum)


def collect_images(
    *, older_than_s: float, include_named: bool = False, dry_run: bool = False, cluster: str | None = None
) -> CollectedImages:
    """Remove images that no queued or running job names and that were not used for `older_than_s` seconds.

    Images with a name stay unless `include_named`. With `dry_run` nothing is removed. Raises DiskError.
    """
    from launcher.images.store.collect import collect
    from launcher.watch.image_uses import liveness

    found, host = find_cluster(cluster)
    store = image_store(found, host.environ)
    uses = [use for entry in store.entries() if entry.digest for use in uses_of(store, entry.digest)]
    collected = collect(
        store,
        older_than_s=older_than_s,
        keep_names=not include_named,
        is_live=liveness(uses, found.name, LocalShell()),
        dry_run=dry_run,
    )
    return CollectedImages(store, collected)


def _stored(store: "Store", entry: "StoredImage") -> ListedImage:
    return ListedImage(entry, uses_of(store, entry.digest) if entry.digest else ())
