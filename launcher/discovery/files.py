"""Paths that a plan names: expansion, and whether they exist."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from launcher._util.errors import ConfigError


def require_sources(sources: Iterable[str]) -> None:
    """Raise ConfigError unless every source of a mount exists on this machine, where the run is submitted."""
    for source in sources:
        if not Path(source).exists():
            raise ConfigError(
                f"{source} cannot be mounted: it does not exist",
                where="--mount",
                hint="Create it, or leave the mount out.",
            )


def expanded(path: str, environ: Mapping[str, str]) -> str:
    """Return `path` with `~`, `$NAME` and `${NAME}` replaced from `environ`; unknown names are left as they are."""
    found = re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda match: environ.get(match[1] or match[2], match[0]), path)
    return environ.get("HOME", "~") + found[1:] if found == "~" or found.startswith("~/") else found
