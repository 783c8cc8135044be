"""Files of the outside that a plan names: are they there?"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from launcher._util.errors import SpecError


def require_sources(sources: Iterable[str]) -> None:
    """Raise SpecError unless every source of a mount exists here, on the submitting side."""
    for source in sources:
        if not Path(source).exists():
            raise SpecError(
                f"there is no {source} to mount", where="--mount", hint="Create it, or leave the mount out."
            )


def expanded(path: str, environ: Mapping[str, str]) -> str:
    """`path` with `~`, `$NAME` and `${NAME}` as `environ` has them; what it lacks stays as it is."""
    found = re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda match: environ.get(match[1] or match[2], match[0]), path)
    return environ.get("HOME", "~") + found[1:] if found == "~" or found.startswith("~/") else found
