"""All patches of the CPU back end, in the order in which they are applied."""

import logging

from . import bridge_patches, core_patches, torch_patches
from .patch import Patch

PATCHES: tuple[Patch, ...] = (
    *torch_patches.PATCHES,
    *bridge_patches.BEFORE_IMPORT,
    *core_patches.PATCHES,
    *bridge_patches.PATCHES,
)

_enabled = False


def enable() -> None:
    """Apply every patch, once in a process: after torch was imported, before any part of Megatron is."""
    global _enabled
    if _enabled:
        return
    # Bridge logs, with a traceback, each optional import that failed: here that is all of Transformer Engine's. It sets
    # that logger's level itself, to INFO, so a filter it is.
    logging.getLogger("megatron.bridge.utils.import_utils").addFilter(lambda entry: entry.levelno >= logging.WARNING)
    for patch in PATCHES:
        patch.apply()
    _enabled = True
