"""The manifest of an image: the JSON file beside it with its identity, its origin and its contents.

`x.sqsh` has `x.json`. It is written once, with the image. No run needs it: for a file that has none,
`contents.describe` finds the same by looking inside.
"""

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from launcher._util.errors import DiskError, ImageError
from launcher.config.model import Model, ModelError
from launcher.contract.files import open_regular, write_text

_READ_LIMIT = 16 << 20  # bytes of a manifest; a larger file is something else


class ImageSource(Model, frozen=True, kw_only=True):
    """The origin of an image."""

    kind: Literal["dockerfile", "registry", "daemon", "directory", "tarball", "squashfs"]
    text: str
    """As the user named it."""

    digest: str | None = None
    """`sha256:...` of the image in the registry or in the engine."""

    dockerfile: str | None = None
    target: str | None = None
    """The stage of the Dockerfile that was built; None for its last."""

    build_args: dict[str, str | None] = field(default_factory=dict)
    """Build arguments; None in place of the value of a secret-like name."""

    platform: str | None = None
    """As engines write it: `linux/arm64`."""


class NetworkPlugin(Model, frozen=True, kw_only=True):
    """A plugin of NCCL in the image."""

    path: str
    """The real path of the file, symbolic links followed: a value for NCCL_NET_PLUGIN."""

    kind: Literal["net", "tuner", "profiler"]

    names: tuple[str, ...] = ()
    """For `net`: the values of NCCL_NET found in the binary, in order; empty where none was found."""


class Contents(Model, frozen=True, kw_only=True):
    """Contents of an image, as far as its files show without running anything."""

    packages: dict[str, str] = field(default_factory=dict)
    """Version by name: torch, megatron-core, transformer-engine, nccl, cuda, libfabric, aws-ofi-nccl, ...

    `unknown` for software that does not state its version.
    """

    python: str | None = None
    """The path of python3 in the image."""

    network_plugins: tuple[NetworkPlugin, ...] = ()

    moe_backends: tuple[str, ...] = ()
    """Those of `deepep`, `hybridep`, `nccl-gin`, `nvshmem`, `uccl` that were found or that the image declares."""

    verified: dict[str, str] = field(default_factory=dict)
    """Versions seen by importing, which the last stage of the image's build wrote to /etc/launcher/versions.json."""


class Manifest(Model, frozen=True, kw_only=True):
    """All facts about one image file."""

    version: Literal[1] = 1
    digest: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")] | None = None
    """Of the file's bytes; None where it was not computed."""

    size_bytes: Annotated[int, Meta(ge=0)]
    architecture: str | None = None
    """As `uname -m` prints it: `x86_64`, `aarch64`; None where no program of the image shows it."""

    created: str
    """UTC, ISO 8601: when the image was made; for a foreign file, when the file system in it was."""

    source: ImageSource | None = None
    """None for a file that the launcher did not make."""

    tools: dict[str, str] = field(default_factory=dict)
    """The programs that made the image: version by name."""

    compression: str | None = None
    """Compressor and level: `zstd:3`; the level is not always known."""

    packing: int | None = None
    """The version of the rules by which the launcher packed it; None for a file that it did not pack."""

    environment: dict[str, str | None] = field(default_factory=dict)
    """/etc/environment; None in place of the value of a secret-like name."""

    contents: Contents = Contents()


def manifest_path(image: Path) -> Path:
    """Return where the manifest of `image` is: beside it, `.json` in place of `.sqsh`."""
    return image.with_suffix(".json")


def read_manifest(image: Path) -> Manifest | None:
    """Return the manifest of an image file, symbolic links followed; None if it has none.

    Raises ImageError if the file is not a manifest, DiskError if it cannot be read.
    """
    path = manifest_path(image.resolve())
    try:
        with open_regular(path) as file:
            text = file.read(_READ_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DiskError(f"cannot read the image's manifest: {error.strerror}", where=str(path)) from error
    if len(text) > _READ_LIMIT:
        raise ImageError("the file is too large for a manifest of an image", where=str(path), hint=_REMEDY)
    try:
        values = msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ImageError(f"broken manifest: not JSON ({error})", where=str(path), hint=_REMEDY) from None
    if not isinstance(values, dict):
        raise ImageError("broken manifest: not an object", where=str(path), hint=_REMEDY)
    try:
        return Manifest.model_validate(values)
    except ModelError as error:
        first, *others = error.problems
        more = f" (and {len(others)} more)" if others else ""
        wrong = f"broken manifest: {'.'.join(first.key)}: {first.text}{more}"
        raise ImageError(wrong, where=str(path), hint=_REMEDY) from None


_REMEDY = "Remove it (the image is inspected then), or make the image again: `launcher image import` or `build`."


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write `manifest` to `path`: whole or not at all, on the disk when this returns. Raises DiskError."""
    text = manifest.model_dump_json(indent=2) + "\n"
    try:
        write_text(path, text, mode=0o644, exact_mode=True)
    except OSError as error:
        raise DiskError(f"cannot write the image's manifest: {error.strerror}", where=str(path)) from error


def utc_now() -> str:
    """Return this moment as manifests write it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
