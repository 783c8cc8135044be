"""Readable names of the store: symbolic links in its root that point to content-named images."""

import contextlib
import os
import re
from pathlib import Path

from launcher._util.errors import ImageError
from launcher.images.reference import parse_reference

SUFFIX = ".sqsh"
DIGITS = re.compile(r"[0-9a-f]{8,64}")
"""A digest, or enough of its beginning to ask for an image by it."""

_LINK = re.compile(r"sha256/([0-9a-f]{64})\.sqsh")
_LIMIT = 255  # bytes: NAME_MAX


def checked_name(name: str) -> str:
    """Return the file name in the store for a readable name, with `.sqsh`. Raises ImageError unless it can be one."""
    file_name = _file_name(name)
    if file_name is None:
        hint = "It is one file name: no '/', no '.' in front, no control characters, 255 bytes at most."
        raise ImageError(f"{name!r} cannot be the name of an image in the store", hint=hint)
    if DIGITS.fullmatch(name.removesuffix(SUFFIX)):
        raise ImageError(f"{name!r} as a name would look like a digest", hint="Choose another name.")
    return file_name


def meant_by(text: str) -> list[str]:
    """Return the file names in a store's root that `text` may stand for, best first."""
    # As `image build` names what it makes: megatron-lm:latest is megatron-lm+latest.sqsh.
    written = (text, text.replace("/", "+").replace(":", "+"))
    names = [name for each in written if (name := _file_name(each))]
    with contextlib.suppress(ImageError):  # not a reference: then only a name
        reference = parse_reference(text)
        names += [reference.file_name, reference.cloudai_name]
    return list(dict.fromkeys(names))


def link_to(digest: str) -> str:
    """Return the target of a name's symbolic link; `digest` in hexadecimal."""
    return f"sha256/{digest}{SUFFIX}"


def target_of(path: Path) -> str | None:
    """Return the digest (hexadecimal) that a name points to; None for a file that the store did not make."""
    try:
        match = _LINK.fullmatch(str(path.readlink()))
    except OSError:
        return None
    return match[1] if match else None


def check_free(path: Path) -> None:
    """Raise ImageError if a name is taken by something that the store did not make."""
    if os.path.lexists(path) and target_of(path) is None:
        raise ImageError(
            "a file of this name exists that the store did not make",
            where=str(path),
            hint="Choose another name, or move the file away (`launcher image import` takes a .sqsh file in).",
        )


def listed(directory: Path) -> list[str]:
    """Return the file names of images in a directory, sorted. Raises ImageError."""
    try:
        found = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ImageError(f"the store cannot be read: {error.strerror}", where=str(directory)) from error
    return sorted(name for name in found if name.endswith(SUFFIX) and not name.startswith("."))


def _file_name(name: str) -> str | None:
    file_name = name if name.endswith(SUFFIX) else name + SUFFIX
    good = "/" not in name and not name.startswith(".") and name not in ("", SUFFIX) and name.isprintable()
    return file_name if good and len(os.fsencode(file_name)) <= _LIMIT else None
