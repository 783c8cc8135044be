"""Which release of Megatron Bridge a run will find: decided here, for the index of recipes and for the schema."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import CommandError
from launcher._util.shell import LocalShell, Shell
from launcher.discovery.recipe_index import installed_version

_ASK = "import importlib.metadata as found; print(found.version('megatron-bridge'))"
_TIMEOUT_S = 20


@dataclass(frozen=True)
class BridgeRelease:
    """A release, and the interpreter of this machine that has it."""

    version: str | None
    """As its package says it, `0.3.1`; None where nobody can tell."""

    python: str | None = None
    """An interpreter of this machine that imports the job's own installation; None where that is in an image only."""


def find_bridge_release(
    packages: Mapping[str, str] | None, python: str | None, *, in_image: bool, shell: Shell | None = None
) -> BridgeRelease:
    """The release that the job will find: that of its image (`packages`), else of its Python, else ours.

    `python` is the job's interpreter where that is not the launcher's. It is asked for the package's metadata, which
    imports nothing of it and takes a tenth of a second; one that is not on this machine leaves the release unknown.
    """
    if in_image:
        return BridgeRelease((packages or {}).get("megatron-bridge"))
    if python is None or Path(python) == Path(sys.executable):
        return BridgeRelease(installed_version(), sys.executable)
    try:
        said = (shell or LocalShell()).run([python, "-c", _ASK], check=False, timeout_s=_TIMEOUT_S)
    except CommandError:  # it is somewhere else, such as on the nodes alone
        return BridgeRelease(None)
    version = said.stdout.strip()
    return BridgeRelease(version, python) if said.status == 0 and version else BridgeRelease(None)
