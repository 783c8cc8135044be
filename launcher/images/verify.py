"""Checks whether a file is an image that this cluster can run."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from launcher._util.errors import DiskError, ImageError, MissingProgramError
from launcher._util.older_python import sha256_of
from launcher._util.shell import Shell
from launcher.images.inspect.squashfs import PADDING, REMEDY, Superblock, examine, made_at, read_superblock
from launcher.images.manifest import Manifest, manifest_path, read_manifest

_NO_UNSQUASHFS = "unsquashfs (of squashfs-tools) is not installed"
_SAME = {"amd64": "x86_64", "arm64": "aarch64"}
"""What docker calls the architectures of `uname -m`."""


TRAINING = ("torch", "megatron-core", "megatron-bridge")
"""The packages without which no recipe trains."""


@dataclass(frozen=True)
class VerifiedImage:
    """An image without a fault that was found."""

    path: Path
    """The file, symbolic links followed."""

    manifest: Manifest
    """The manifest beside the file, or one made by inspecting it."""

    unchecked: tuple[str, ...] = ()
    """Properties that could not be checked, and why."""

    warnings: tuple[str, ...] = ()
    """Oddities that do not keep an image from running."""


def check(path: Path, *, architecture: str | None, shell: Shell, checksum: bool = False) -> VerifiedImage:
    """Check an image file in less than a second; with `checksum`, read every byte, at the speed of the disk.

    `architecture`: of the nodes, as `uname -m` prints it; None where the cluster's profile does not state it.
    Raises ImageError, which names the file, its fault and what to do; DiskError if the disk fails.
    """
    superblock = read_superblock(path)
    real = path.resolve()
    size = superblock.file_bytes
    recorded = read_manifest(real)
    if recorded is not None:
        _check_manifest(real, size, recorded)
    unchecked: list[str] = []
    try:
        examine(real, shell)
        manifest = recorded or _described(real, shell)
    except MissingProgramError:
        unchecked.append(f"whether the file system can be read: {_NO_UNSQUASHFS}")
        manifest = recorded or _of_superblock(superblock)
    if reason := _check_architecture(real, manifest.architecture, architecture):
        unchecked.append(reason)
    if checksum and (reason := _check_digest(real, manifest)):
        unchecked.append(reason)
    beyond = size - superblock.bytes_used
    warnings = (f"{beyond} bytes follow the file system",) if beyond > PADDING else ()
    return VerifiedImage(real, manifest, tuple(unchecked), warnings)


def lacking(manifest: Manifest) -> tuple[str, ...]:
    """Return what training needs and the image does not show: programs and packages (docs/reference/requirements.md).

    A package that was put there without metadata is not seen.
    """
    held = {*manifest.contents.packages, *manifest.contents.verified}
    absent = [] if manifest.contents.python else ["python3"]
    return (*absent, *(name for name in TRAINING if name not in held))


def _check_manifest(image: Path, size: int, manifest: Manifest) -> None:
    """Refuse a manifest that belongs to another file, by size and name."""
    if manifest.size_bytes != size:
        _refuse(image, f"it has {size} bytes, but {manifest_path(image).name} beside it says {manifest.size_bytes}")
    named = _digest_of_name(image)
    if named and manifest.digest and named != manifest.digest:
        _refuse(image, f"{manifest_path(image).name} beside it is the manifest of another image, {manifest.digest}")


def _check_architecture(image: Path, found: str | None, wanted: str | None) -> str | None:
    """Refuse an image for other machines; return why that could not be checked, if so."""
    if found is None:
        return "its architecture: it holds no program that shows it"
    if wanted is None:
        return f"whether it fits the nodes: the profile does not state their architecture (the image is for {found})"
    if _SAME.get(wanted, wanted) != found:
        raise ImageError(
            f"the image is for {found}, but the cluster's nodes are {wanted}",
            where=str(image),
            hint=f"Import or build it for {wanted}: `launcher image import ... --architecture {wanted}`.",
        )
    return None


def _check_digest(image: Path, manifest: Manifest) -> str | None:
    """Compare every byte; return why that was not possible, if so."""
    expected = manifest.digest or _digest_of_name(image)
    if expected is None:
        return "its checksum: neither a manifest beside it nor its name states the expected one"
    found = file_digest(image)
    if found != expected:
        _refuse(image, f"its content is damaged or was changed: {found} instead of {expected}")
    return None


def file_digest(path: Path) -> str:
    """Return `sha256:<hex>` of a file. Raises DiskError."""
    try:
        with path.open("rb") as file:
            return f"sha256:{sha256_of(file)}"
    except OSError as error:
        raise DiskError(f"cannot read the image: {error.strerror}", where=str(path)) from error


def _digest_of_name(image: Path) -> str | None:
    """Return the digest in the name of a file of the image store, `<64 hexadecimal digits>.sqsh`."""
    return f"sha256:{image.stem}" if re.fullmatch(r"[0-9a-f]{64}", image.stem) else None


def _described(image: Path, shell: Shell) -> Manifest:
    from launcher.images.inspect.contents import describe  # not loaded for an image that has a manifest

    return describe(image, shell)


def _of_superblock(superblock: Superblock) -> Manifest:
    """Return a manifest with the facts of the superblock alone."""
    return Manifest(size_bytes=superblock.file_bytes, created=made_at(superblock), compression=superblock.compression)


def _refuse(image: Path, problem: str) -> NoReturn:
    raise ImageError(f"the image cannot be used: {problem}", where=str(image), hint=REMEDY)
