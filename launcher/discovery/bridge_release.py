"""The release of Megatron Bridge that a run will find, for the recipe index and for the schema of overrides."""

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from launcher._util.errors import CommandError
from launcher._util.shell import LocalShell, Shell
from launcher.contract.frozen import dataclass
from launcher.discovery.recipe_index import installed_metadata, version_of

ACCUMULATION_KERNEL = "fused_weight_gradient_mlp_cuda"
"""APEX's extension with the kernel that model.gradient_accumulation_fusion needs."""

_ASK = (
    "import importlib.metadata as found; it = found.distribution('megatron-bridge'); print(it.version)\n"
    "print(it.locate_file(''))\n"
    f"import importlib.util; print(importlib.util.find_spec('{ACCUMULATION_KERNEL}') is not None)"
)
_TIMEOUT_S = 20


@dataclass(frozen=True)
class BridgeRelease:
    """A release of Megatron Bridge, and an interpreter of this machine that has it installed."""

    version: str | None
    """The version in the package's metadata, such as `0.3.1`; None if it is unknown."""

    python: str | None = None
    """An interpreter of this machine that imports the job's installation; None if only an image has it."""

    site: str | None = field(default=None, compare=False)
    """The directory that it is installed in, on this machine."""

    accumulation_kernel: bool | None = field(default=None, compare=False)
    """Whether that interpreter finds the kernel that gradient accumulation fusion needs; None if it is unknown."""


def find_bridge_release(
    packages: Mapping[str, str] | None, python: str | None, *, in_image: bool, shell: Shell | None = None
) -> BridgeRelease:
    """Find the release that the job will import: from the image's `packages`, else `python`, else this interpreter.

    `python` is the job's interpreter if it differs from the launcher's. It prints the package's metadata, which takes a
    tenth of a second and does not import the package. If it does not exist on this machine, the release is unknown.
    """
    if in_image:
        return BridgeRelease((packages or {}).get("megatron-bridge"))
    if python is None or Path(python) == Path(sys.executable):
        found = installed_metadata()
        if found is None:
            return BridgeRelease(None, sys.executable)
        kernel = importlib.util.find_spec(ACCUMULATION_KERNEL) is not None
        return BridgeRelease(version_of(found), sys.executable, str(found.parent), kernel)
    try:
        result = (shell or LocalShell()).run([python, "-c", _ASK], check=False, timeout_s=_TIMEOUT_S)
    except CommandError:  # the interpreter exists elsewhere, such as on the nodes only
        return BridgeRelease(None)
    version, site, has_kernel = (*result.stdout.strip().split("\n"), "", "", "")[:3]
    if result.status != 0 or not version:
        return BridgeRelease(None)
    return BridgeRelease(version, python, site or None, {"True": True, "False": False}.get(has_kernel))
