"""Mend torch's clean-up of operators, which may kill a process that ends: NVIDIA's PyTorch 26.06 still has the fault.

    python3 torch_library.py

When a library of operators is removed, torch clears them from its cache. Older builds ask with `hasattr` whether an
operator is there, which calls into C++; at the end of a process that part may be gone already, and the rank dies of a
signal after its last iteration. PyTorch 2.13.0 looks into the dictionary of the name space instead, and Megatron Bridge
patches its base image to the same effect (Megatron-Bridge docker/Dockerfile.ci at v0.6.0, 51885cf13). A base without
torch is left alone. Standard library alone, Python 3.10.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

BEFORE = "if not hasattr(namespace, name):"
AFTER = "if name not in vars(namespace):"

# Exits with 1 if clearing an operator that was never used asks for it.
PROBE = """
import torch
from torch.library import Library, _clear_torch_ops_cache

library = Library("launcher_probe", "DEF")
library.define("never_used() -> ()")
asked, kind = [], type(torch.ops.launcher_probe)
kind.__getattr__ = lambda self, name: asked.append(name)
_clear_torch_ops_cache({"launcher_probe::never_used"})
import os
os._exit(bool(asked))
"""


def mended(text: str) -> str:
    """Return torch/library.py without the fault. Raises ValueError for a text that is neither old nor new."""
    if text.count(BEFORE) + text.count(AFTER) != 1:
        raise ValueError("torch/library.py is not known: it asks for an operator in another way")
    return text.replace(BEFORE, AFTER)


def main() -> int:
    """Mend the installed torch, see that it helps, and return the exit status."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        print("the base has no torch")
        return 0
    path = Path(found.origin).with_name("library.py")
    text = path.read_text()
    if (new := mended(text)) != text:
        path.write_text(new)
        print(f"mended {path}")
    else:
        print("the base's torch has no fault in its clean-up of operators")
    return subprocess.run([sys.executable, "-c", PROBE], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
