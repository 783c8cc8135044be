"""Paths that a user wrote: expanded, and refused where none can exist."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from launcher._util.errors import ConfigError, RequestError


def user_path(text: str, directory: Path, *, where: str | None = None, error: type[RequestError] = ConfigError) -> Path:
    """Return the absolute path that `text` means in `directory`; `~` and `~NAME` are home directories.

    Raises `error` for a text that is not the path of anything: without such a user, too long, with a NUL byte, or a
    symbolic link that leads to itself.
    """
    if "\0" in text:
        raise error(f"{text!r} contains a NUL byte, which no path can hold", where=where)
    try:
        path = directory / Path(text).expanduser()
    except RuntimeError:
        raise error(f"{text!r}: this machine has no user {text.partition('/')[0][1:]!r}", where=where) from None
    try:
        path.stat()
    except OSError as failed:
        if failed.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise error(f"{text!r} is not a path: {(failed.strerror or '').lower()}", where=where) from None
    return path


def cache_home(environ: Mapping[str, str]) -> Path:
    """Return the directory of caches: XDG_CACHE_HOME, else ~/.cache."""
    return Path(environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME', '~')}/.cache").expanduser()


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Return the launcher's own cache: LAUNCHER_CACHE, else `megatron-launcher` below the directory of caches."""
    own = environ.get("LAUNCHER_CACHE")
    return Path(own).expanduser() if own else cache_home(environ) / "megatron-launcher"


def is_file(path: Path) -> bool:
    """Return whether there is a regular file; False also for a name that no file can have."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib's raises for a name that is too long


def is_directory(path: Path) -> bool:
    """Return whether there is a directory; False also for a name that none can have."""
    return os.path.isdir(path)  # noqa: PTH112


def exists(path: Path) -> bool:
    """Return whether there is anything; False also for a name that nothing can have."""
    return os.path.exists(path)  # noqa: PTH110


def require_directory(path: Path, where: str) -> None:
    """Raise ConfigError where a directory can neither be nor be made, because of a file on the way."""
    above = next((each for each in (path, *path.parents) if exists(each)), None)
    if above is not None and not is_directory(above):
        raise ConfigError(f"{above} is not a directory", where=where)
