"""All patches of the CPU back end, in the order in which they are applied."""

import importlib.metadata
import logging

from . import bridge_patches, core_patches, torch_patches
from .patch import Patch, nearest_release

PATCHES: tuple[Patch, ...] = (
    *torch_patches.PATCHES,
    *bridge_patches.BEFORE_IMPORT,
    *core_patches.PATCHES,
    *bridge_patches.PATCHES,
)

_enabled = False


def patches() -> tuple[Patch, ...]:
    """Return the patches that the installed release of Megatron Bridge needs."""
    release = nearest_release(importlib.metadata.version("megatron-bridge"))
    return tuple(patch for patch in PATCHES if release in patch.releases)


def enable() -> None:
    """Apply every patch of this release, once per process: after torch is imported, before anything of Megatron."""
    global _enabled
    if _enabled:
        return
    # Bridge logs each optional import that failed with a traceback, here all of Transformer Engine's. A filter, because
    # Bridge itself sets that logger's level to INFO.
    logging.getLogger("megatron.bridge.utils.import_utils").addFilter(lambda entry: entry.levelno >= logging.WARNING)
    for patch in patches():
        patch.apply()
    _enabled = True


def allow_import() -> None:
    """Apply what importing megatron-core alone needs and this machine lacks: for programs that compute nothing."""
    for patch in bridge_patches.BEFORE_IMPORT:
        if "megatron-core" in patch.of and not _enabled and patch.needed():
            patch.apply()
