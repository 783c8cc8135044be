"""Megatron Bridge 0.3.1 on Python 3.11, in the virtual environment that tools/old_bridge.sh makes."""

import pytest

from tests.job.bridge_process import ROOT

PYTHON = str(ROOT / ".venv-bridge-0.3.1" / "bin" / "python")

needed = pytest.mark.skipif(
    not (ROOT / ".venv-bridge-0.3.1" / ".installed").exists(),
    reason="Megatron Bridge 0.3.1 is not installed: tools/old_bridge.sh does so where there is a Python 3.11",
)
