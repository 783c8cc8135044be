"""Fetching an image from a registry: with enroot, else with podman or buildah in a storage of their own, else docker.

The image's digest is read by its name first, then the image is fetched by the digest: a name that moves meanwhile does
no harm, and no name in the user's engine is moved.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from launcher._util.errors import CommandError, ImageError, MissingProgramError, OutsideError
from launcher._util.line_splitter import LineSplitter
from launcher._util.shell import Shell
from launcher.contract.events import ProgressListener
from launcher.images.build import engines, enroot, pack, pipeline
from launcher.images.build.engines import Engine
from launcher.images.build.pack import Compression
from launcher.images.build.registry import digest_of, engine_architecture, is_loopback
from launcher.images.build.stalls import StallWatch
from launcher.images.build.transfers import UnknownImageError, with_retries
from launcher.images.reference import Reference
from launcher.images.store.mounts import mount_of
from launcher.images.store.workspace import remove_tree

TOOLS = ("enroot", "docker", "podman", "buildah")
_ENGINES: tuple[engines.EngineName, ...] = ("podman", "buildah", "docker")


@dataclass(frozen=True)
class PulledImage:
    """An image file that came from a registry."""

    file: Path
    digest: str | None
    """Of its manifest in the registry, where it is known."""
    tools: dict[str, str]


class PullTool(Protocol):
    """A program that can fetch one image of a registry."""

    @property
    def name(self) -> str:
        """Return the name of the program."""
        ...

    def digest(self, architecture: str, report: ProgressListener) -> str | None:
        """Return the digest under the name now; None if this program cannot ask. Raises ImageError, OutsideError."""
        ...

    def pull(
        self, digest: str | None, architecture: str, workspace: Path, compression: Compression, report: ProgressListener
    ) -> PulledImage:
        """Fetch the image. Raises ImageError, OutsideError."""
        ...


def tool_for(reference: Reference, wanted: str | None, shell: Shell) -> PullTool:
    """Return the wanted program, else the best one here. Raises ImageError, OutsideError."""
    if wanted is not None and wanted not in TOOLS:
        raise ImageError(f"{wanted!r} cannot import images", where="--engine", hint=f"Use {', '.join(TOOLS)}.")
    if wanted in (None, "enroot"):
        try:
            pull = EnrootPull(reference, enroot.version(shell), shell)
            return pull if wanted else EnrootElseEngine(pull)
        except MissingProgramError:
            if wanted == "enroot":
                raise
    engine = engines.find_engine(shell, wanted, _ENGINES)
    return DockerPull(reference, engine, shell) if engine.name == "docker" else EnginePull(reference, engine, shell)


def from_registry(
    tool: PullTool,
    digest: str | None,
    architecture: str,
    workspace: Path,
    compression: Compression,
    report: ProgressListener,
) -> PulledImage:
    """Fetch and pack. Raises ImageError, OutsideError, DiskError."""
    with pack.full_disk(workspace):
        return tool.pull(digest, architecture, workspace, compression, report)


@dataclass(frozen=True)
class EnrootPull:
    """A pull with `enroot import`."""

    reference: Reference
    version: enroot.Version
    shell: Shell
    name: str = "enroot"

    def digest(self, architecture: str, report: ProgressListener) -> str | None:
        """Return the digest; see `PullTool.digest`."""
        if self.version < enroot.DIGEST_SINCE:
            return self.reference.digest or digest_of(self.reference, architecture)
        settings = enroot.Settings(allow_http=is_loopback(self.reference.registry))

        def ask() -> str:
            watch = StallWatch(self.name, report)
            return enroot.digest(
                self.reference.enroot_uri, self.shell, architecture=architecture, settings=settings, on_tick=watch
            )

        return with_retries(ask, self.reference, self.name, report)

    def pull(
        self, digest: str | None, architecture: str, workspace: Path, compression: Compression, report: ProgressListener
    ) -> PulledImage:
        """Fetch the image; see `PullTool.pull`."""
        report.stage(f"importing with enroot {'.'.join(map(str, self.version))}")
        output = workspace / pipeline.IMAGE
        settings = enroot.settings_for(workspace, compression, allow_http=is_loopback(self.reference.registry))

        def fetch() -> None:
            output.unlink(missing_ok=True)  # of the attempt before
            lines = LineSplitter(lambda text: _report_line(text, report))
            enroot.import_image(
                self.uri(digest),
                output,
                self.shell,
                architecture=architecture,
                settings=settings,
                on_text=lines,
                on_tick=StallWatch(self.name, report),
            )
            lines.end()

        with_retries(fetch, self.reference, self.name, report)
        tools = {"enroot": ".".join(map(str, self.version)), "mksquashfs": pack.tool_version(self.shell)}
        return PulledImage(output, digest, tools)

    def uri(self, digest: str | None) -> str:
        """Return the image's name for `enroot import`."""
        uri = replace(self.reference, digest=digest or self.reference.digest).enroot_uri
        # Before 4.0 a digest could only be given in place of a tag, whose pattern allows for the colon.
        return uri if self.version >= enroot.DIGEST_SINCE else uri.replace("@sha256:", ":sha256:")


@dataclass
class EnrootElseEngine:
    """A pull with enroot; with podman or buildah where the registry hides the image from enroot."""

    first: EnrootPull
    used: PullTool = field(init=False)

    def __post_init__(self) -> None:
        """Begin with enroot."""
        self.used = self.first

    @property
    def name(self) -> str:
        """Return the name of the program."""
        return self.used.name

    def digest(self, architecture: str, report: ProgressListener) -> str | None:
        """Return the digest; see `PullTool.digest`."""
        try:
            return self.used.digest(architecture, report)
        except UnknownImageError as error:
            return self._turn_to_engine(error, architecture, report)

    def pull(
        self, digest: str | None, architecture: str, workspace: Path, compression: Compression, report: ProgressListener
    ) -> PulledImage:
        """Fetch the image; see `PullTool.pull`."""
        try:
            return self.used.pull(digest, architecture, workspace, compression, report)
        except UnknownImageError as error:
            if self.used is not self.first:
                raise
            found = self._turn_to_engine(error, architecture, report)
        return self.used.pull(digest or found, architecture, workspace, compression, report)

    def _turn_to_engine(self, error: UnknownImageError, architecture: str, report: ProgressListener) -> str:
        """Use an engine from now on, if the registry does have the image; return its digest. Raises `error` else.

        enroot 3 does not ask for images of the OCI format, and enroot 4 asks some registries in a way that they answer
        with 404.
        """
        reference, shell = self.first.reference, self.first.shell
        digest = digest_of(reference, architecture)
        if digest is None:
            raise error
        try:
            engine = engines.find_engine(shell, None, ("podman", "buildah"))
        except OutsideError:
            raise error from None
        report.line(f"enroot does not find the image that the registry has: fetching with {engine.name} instead")
        self.used = EnginePull(reference, engine, shell)
        return digest


def _report_line(text: str, report: ProgressListener) -> None:
    stage = re.match(r"\[INFO\] (.*)", text)
    if stage:
        report.stage(f"enroot: {stage[1].rstrip('.')[:1].lower()}{stage[1].rstrip('.')[1:]}")
    else:
        report.line(text)


@dataclass(frozen=True)
class EnginePull:
    """A pull with podman or buildah, into a storage that is removed afterwards: no name of the user's can move."""

    reference: Reference
    engine: Engine
    shell: Shell

    @property
    def name(self) -> str:
        """Return the name of the program."""
        return self.engine.name

    def digest(self, architecture: str, report: ProgressListener) -> str | None:  # noqa: ARG002
        """Return the digest; see `PullTool.digest`."""
        return digest_of(self.reference, architecture)

    def pull(
        self, digest: str | None, architecture: str, workspace: Path, compression: Compression, report: ProgressListener
    ) -> PulledImage:
        """Fetch the image; see `PullTool.pull`."""
        report.stage(f"fetching with {self.engine.name} {self.engine.version}")
        name = pinned_name(self.reference, digest)
        with private_storage(self.engine, workspace, self.shell) as engine:
            words = ["pull", "--platform", f"linux/{engine_architecture(architecture)}"]
            words += ["--tls-verify=false"] if is_loopback(self.reference.registry) else []
            lines = LineSplitter(report.line)

            def fetch() -> None:
                self.shell.stream(engine.argv(*words, name), lines, on_tick=StallWatch(self.name, report))

            with_retries(fetch, self.reference, self.name, report)
            image = engines.inspect(engine, name, self.shell)
            if image is None:
                raise engines.missing_image_error(engine, name)
            text = self.reference.canonical
            file, tools = pipeline.pack_engine_image(engine, image, text, workspace, compression, self.shell, report)
        return PulledImage(file, digest or image.digest, tools)


@dataclass(frozen=True)
class DockerPull:
    """A pull with docker, which has one storage: by digest, and removed afterwards if it was not there before."""

    reference: Reference
    engine: Engine
    shell: Shell
    name: str = "docker"

    def digest(self, architecture: str, report: ProgressListener) -> str | None:
        """Return the digest; see `PullTool.digest`. docker can ask with the credentials that it has."""
        if (found := digest_of(self.reference, architecture)) is not None:
            return found
        words = ["buildx", "imagetools", "inspect", "--format", "{{.Manifest.Digest}}", self.reference.engine_name]

        def ask() -> str:
            return engines.ask(self.engine.argv(*words), self.shell, timeout_s=120).stdout

        found_text = re.search(r"sha256:[0-9a-f]{64}", with_retries(ask, self.reference, self.name, report))
        return found_text[0] if found_text else None

    def pull(
        self, digest: str | None, architecture: str, workspace: Path, compression: Compression, report: ProgressListener
    ) -> PulledImage:
        """Fetch the image; see `PullTool.pull`."""
        if digest is None:
            raise OutsideError(
                "docker does not give the digest of the image, and pulling by name could move one of your names",
                where=self.reference.canonical,
                hint="Name the digest (@sha256:...), or pull the image yourself and import dockerd://NAME.",
            )
        name = pinned_name(self.reference, digest)
        before = engines.inspect(self.engine, name, self.shell)
        report.stage(f"fetching with docker {self.engine.version}")
        lines = LineSplitter(report.line)
        words = ["pull", "--platform", f"linux/{engine_architecture(architecture)}", name]
        try:
            if before is None:
                with_retries(
                    lambda: self.shell.stream(self.engine.argv(*words), lines), self.reference, self.name, report
                )
            image = engines.inspect(self.engine, name, self.shell)
            if image is None:
                raise engines.missing_image_error(self.engine, name)
            text = self.reference.canonical
            file, tools = pipeline.pack_engine_image(
                self.engine, image, text, workspace, compression, self.shell, report
            )
        finally:
            if before is None:
                with contextlib.suppress(CommandError):  # the image is packed; what stays only costs space
                    self.shell.stream(self.engine.argv("image", "rm", name), check=False)
        return PulledImage(file, digest, tools)


def pinned_name(reference: Reference, digest: str | None) -> str:
    """Return the name for engines: by digest where one is known; they refuse a tag beside it."""
    digest = digest or reference.digest
    return replace(reference, digest=digest, tag=None if digest else reference.tag).engine_name


@contextlib.contextmanager
def private_storage(engine: Engine, workspace: Path, shell: Shell) -> Iterator[Engine]:
    """Yield the engine with an empty storage: in the workspace, or on a local disk if overlayfs needs that."""
    mount = mount_of(workspace)
    local = mount is not None and mount.is_local
    directory = workspace / "storage" if local else Path(tempfile.mkdtemp(prefix="launcher-storage-"))
    directory.mkdir(exist_ok=True)
    # In /tmp even if TMPDIR is set: the path has to be short.
    run = Path(tempfile.mkdtemp(prefix="launcher-", dir="/tmp"))
    try:
        yield engine.private(directory, run)
    finally:
        remove_tree(run)
        if os.geteuid() != 0:
            # The files belong to users of the engine's own namespace.
            with contextlib.suppress(CommandError):
                shell.stream([engine.name, "unshare", "rm", "-rf", "--", str(directory)], check=False)
        remove_tree(directory)
