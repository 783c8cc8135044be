"""containers/torch_library.py: the text that it mends, and its probe on the torch of this environment."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.limits import seconds

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "containers/torch_library.py"

# What NVIDIA's PyTorch 26.06 has: the text of the environment's torch with the older question.
OLD = """
import inspect, sys, torch, torch.library
sys.path.insert(0, sys.argv[1])
import torch_library
text = inspect.getsource(torch.library._clear_torch_ops_cache)
assert torch_library.AFTER in text
old = text.replace(torch_library.AFTER, torch_library.BEFORE)
assert torch_library.mended(old) == text
exec(old if sys.argv[2] == "old" else text, vars(torch.library))
exec(torch_library.PROBE)
"""


def library() -> Path:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        pytest.skip("needs torch")
    return Path(found.origin).with_name("library.py")


def run(directory: Path, *argv: str) -> "subprocess.CompletedProcess[str]":
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(directory)}
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=seconds(120), env=env)


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A torch without anything but its library.py in the older form; its probe passes."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("import os\nos._exit(0)\n")
    text = library().read_text()
    now = "if name not in vars(namespace):"
    assert text.count(now) == 1, "this torch cleans up in another way"
    (tmp_path / "torch/library.py").write_text(text.replace(now, "if not hasattr(namespace, name):"))
    return tmp_path


def test_the_older_text_becomes_the_newer_one_once(fake: Path) -> None:
    done = run(fake, str(SCRIPT))
    assert (done.returncode, done.stdout) == (0, f"mended {fake}/torch/library.py\n"), done.stderr
    assert (fake / "torch/library.py").read_text() == library().read_text()
    assert run(fake, str(SCRIPT)).stdout.startswith("the base's torch has no fault")
    assert (fake / "torch/library.py").read_text() == library().read_text()


def test_an_unknown_text_ends_the_build(fake: Path) -> None:
    (fake / "torch/library.py").write_text("# nothing\n")
    done = run(fake, str(SCRIPT))
    assert done.returncode == 1
    assert "is not known" in done.stderr


def test_a_base_without_torch_is_left_alone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-S", "-I", str(SCRIPT)], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "the base has no torch\n"), done.stderr


@pytest.mark.megatron
@pytest.mark.parametrize(("text", "status"), [("old", 1), ("new", 0)])
def test_the_probe_sees_the_fault(tmp_path: Path, text: str, status: int) -> None:
    done = run(tmp_path, "-c", OLD, str(SCRIPT.parent), text)
    assert done.returncode == status, done.stderr
