"""containers/versions.py, run for real on the stack of this environment; and what the requirements are split into."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.limits import seconds

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "containers/versions.py"
CHOOSE = ROOT / "containers/python/choose.py"


def versions(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(SCRIPT), *arguments]
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **({"PYTHONPATH": str(path)} if path else {})}
    return subprocess.run(argv, capture_output=True, text=True, timeout=seconds(800), env=env)


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A directory on the path of Python in which a test lays modules of its own."""
    (tmp_path / "modules").mkdir()
    return tmp_path / "modules"


STACK = ("python", "torch", "cuda", "nccl", "triton", "megatron-core", "viztracer", "submitit")


@pytest.fixture
def no_resiliency(modules: Path) -> Path:
    """Without nvidia-resiliency-ext, as the launcher's CPU back end does it: 0.4.1 has no __version__."""
    (modules / "sitecustomize.py").write_text("import sys\nsys.modules['nvidia_resiliency_ext'] = None\n")
    return modules


@pytest.mark.megatron
@pytest.mark.timeout(900)
def test_the_training_stack_is_imported_and_written_down(tmp_path: Path, no_resiliency: Path) -> None:
    output = tmp_path / "etc/versions.json"
    only: tuple[str, ...] = STACK
    if not importlib.util.find_spec("nvidia.nccl"):  # torch from an index that serves it without CUDA
        only = tuple(name for name in only if name not in ("cuda", "nccl"))
    done = versions("--output", str(output), "--only", *only, "deep-ep", "aws-ofi-nccl", path=no_resiliency)
    assert done.returncode == 0, done.stderr
    written = json.loads(output.read_text())
    # It adds the commit of a git repository around it, which this environment may lie in; an image has none.
    assert written["megatron-core"].partition("+")[0] == "0.19.2"
    assert written["torch"].startswith("2.13.0")
    assert set(written) == {*only, "moe_backends"}
    assert written["moe_backends"] == []


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_real_package_that_lacks_another_is_named(tmp_path: Path, no_resiliency: Path) -> None:
    """Megatron Bridge without Transformer Engine, which the CPU stack lacks (the launcher's CPU back end stands in)."""
    output = tmp_path / "versions.json"
    done = versions("--output", str(output), "--only", "megatron-bridge", "transformers", path=no_resiliency)
    assert done.returncode == 1
    assert done.stderr.startswith("error: megatron-bridge is broken: ModuleNotFoundError: No module named")
    assert "transformer_engine" in done.stderr
    assert not output.exists()


def test_what_is_absent_counts_only_if_it_is_required(tmp_path: Path) -> None:
    output = tmp_path / "versions.json"
    done = versions("--output", str(output), "--only", "viztracer", "aws-ofi-nccl", "nsys")
    assert done.returncode == 0
    assert set(json.loads(output.read_text())) == {"viztracer", "moe_backends"}
    output.unlink()
    done = versions("--output", str(output), "--only", "viztracer", "aws-ofi-nccl", "--require", "aws-ofi-nccl")
    assert done.returncode == 1
    assert "error: aws-ofi-nccl: no libnccl-net" in done.stderr
    assert not output.exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise RuntimeError('no device')", "RuntimeError: no device"),
        ("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "died of SIGILL"),
        ("import os; os._exit(7)", "ended with status 7"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("import ctypes; ctypes.CDLL('libnot_there.so.1')", "OSError: libnot_there.so.1"),
    ],
)
def test_what_is_there_and_breaks_ends_the_build(tmp_path: Path, modules: Path, code: str, reason: str) -> None:
    (modules / "deep_ep.py").write_text(code + "\n")
    done = versions("--output", str(tmp_path / "v.json"), "--only", "deep-ep", "viztracer", path=modules)
    assert done.returncode == 1
    assert f"error: deep-ep is broken: {reason}" in done.stderr
    assert re.search(r"^viztracer +ok ", done.stdout, re.MULTILINE), "the others are looked at all the same"
    assert not (tmp_path / "v.json").exists()


def test_back_ends_are_listed_by_what_brings_them(tmp_path: Path, modules: Path) -> None:
    (modules / "deep_ep.py").write_text("print('a banner')\n__version__ = '2.0'\nclass HybridEPBuffer: ...\n")
    output = tmp_path / "v.json"
    assert versions("--output", str(output), "--only", "deep-ep", "hybrid-ep", "uccl", path=modules).returncode == 0
    assert json.loads(output.read_text()) == {
        "deep-ep": "2.0",
        "hybrid-ep": "2.0",
        "moe_backends": ["deepep", "hybridep"],
    }


def test_the_bases_own_packages_must_not_have_been_replaced(tmp_path: Path) -> None:
    base = tmp_path / "base.json"
    assert versions("--only", "viztracer", "--output", str(base)).returncode == 0
    arguments = ("--only", "viztracer", "--unchanged", str(base), "--output", str(tmp_path / "v.json"))
    assert versions(*arguments).returncode == 0
    base.write_text('{"viztracer": "0.1", "moe_backends": []}')
    done = versions(*arguments)
    assert done.returncode == 1
    assert "viztracer 0.1 of the base image was replaced by" in done.stderr


def chosen(*arguments: str) -> dict[str, str]:
    """Version by name of what choose.py leaves of requirements/gpu.txt."""
    argv = [sys.executable, str(CHOOSE), str(ROOT / "requirements/gpu.txt"), *arguments]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    for entry in re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in entry, entry
    return dict(re.findall(r"^([a-z0-9.-]+)==([^ ;]+)", text, re.MULTILINE))


def test_the_requirements_are_split_without_loss() -> None:
    owned, compiled = str(ROOT / "containers/python/owned.txt"), str(ROOT / "containers/python/compiled.txt")
    everything = chosen()
    pinned = re.findall(r"^[A-Za-z0-9][^ ]*==", (ROOT / "requirements/gpu.txt").read_text(), re.MULTILINE)
    assert len(everything) == len(pinned) > 100
    beside_a_base, of_the_base = chosen("--without", owned), chosen("--only", owned)
    assert {**beside_a_base, **of_the_base} == everything
    assert not set(beside_a_base) & set(of_the_base)
    assert {"torch", "triton", "transformer-engine-torch", "nvidia-nccl-cu13", "nvidia-cublas"} <= set(of_the_base)
    assert {"megatron-core", "megatron-bridge", "transformers", "viztracer"} <= set(beside_a_base)
    assert set(chosen("--only", compiled)) == {"transformer-engine-torch"}
    assert chosen("--only", compiled, "--without", owned) == {}


def test_tools_have_the_versions_of_the_other_requirements() -> None:
    def pins(file: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / file).read_text(), re.MULTILINE))

    tools = pins("containers/python/tools.txt")
    assert pins("containers/python/tools.in").items() <= tools.items()
    for other in ("requirements/gpu.txt", "requirements/cpu.txt"):
        known = pins(other)
        assert {name: known[name] for name in tools if name in known}.items() <= tools.items(), other
