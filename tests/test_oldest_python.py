"""The launcher on Python 3.10, the oldest that it supports, as `uv tool install` or pipx would put it on a login node.

`tools/oldest_python.sh` makes the environment; `make test` calls it.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from launcher._util import toml

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-3.10/bin/python"
TOY = ROOT / "tests/toy/entrypoint.py"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-3.10: tools/oldest_python.sh makes it")

EVERY_MODULE = """
import importlib, pkgutil, sys, launcher
names = [one.name for one in pkgutil.walk_packages(launcher.__path__, "launcher.")]
# These are for those who have installed the extras `tasks` and `nemo-run`.
others = ("launcher.job", "launcher.__main__", "launcher.submitit", "launcher.nemo_run")
names = [name for name in names if not name.startswith(others)]
for name in names:
    importlib.import_module(name)
print(sys.version_info[0], sys.version_info[1], len(names))
"""
TESTS = ("config", "rundir", "discovery", "planning", "slurm", "watch", "contract", "api/test_python_api.py")
"""The tests that are run with 3.10 as well; the others need the training stack, images or Slurm, or measure."""


def run(*arguments: str, directory: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "LAUNCHER_CLUSTER": "local", "PYTHONPATH": "", **variables}
    return subprocess.run([str(PYTHON), *arguments], cwd=directory, env=environ, capture_output=True, text=True)


def test_the_project_states_this_python() -> None:
    stated = toml.loads((ROOT / "pyproject.toml").read_text())
    assert stated["project"]["requires-python"] == ">=3.10"
    assert stated["tool"]["ruff"]["target-version"] == "py310"
    assert stated["tool"]["mypy"]["python_version"] == "3.10"


def test_every_module_is_imported(tmp_path: Path) -> None:
    done = run("-c", EVERY_MODULE, directory=tmp_path)
    assert done.returncode == 0, done.stderr
    major, minor, count = map(int, done.stdout.split())
    assert (major, minor) == (3, 10)
    assert count > 200


def test_a_plan_and_a_local_run(tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text("def configure():\n    return None\n")
    planned = run("-m", "launcher", "plan", "vanilla_gpt_pretrain", "--no-check-config", "--json", directory=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["plan"]["name"] == "vanilla_gpt_pretrain"
    ran = run(
        "-m", "launcher", "run", "small.py", "--entrypoint", str(TOY), "--json", "toy.iters=2", directory=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["outcome"] == "finished"


@pytest.mark.parametrize("asked", [("run",), ("plan", "--check-config")], ids=" ".join)
def test_without_a_training_stack_one_sentence_says_what_is_missing(tmp_path: Path, asked: tuple[str, ...]) -> None:
    done = run("-m", "launcher", *asked, "vanilla_gpt_pretrain", directory=tmp_path)
    assert done.returncode == {"run": 1, "plan": 2}[asked[0]]
    assert "this Python has no torch, megatron.core, megatron.bridge, which training needs" in done.stderr
    assert "--image" in done.stderr and "launcher help requirements" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_quick_tests_pass() -> None:
    named = [f"tests/{name}" for name in TESTS]
    options = ("-q", "-m", "quick", "-p", "no:cacheprovider", "-k", "not groups_are_megatrons_own")
    done = run("-m", "pytest", *options, *named, directory=ROOT)
    assert done.returncode == 0, done.stdout[-4000:]
    assert int(done.stdout.rsplit(" passed", 1)[0].rsplit(maxsplit=1)[-1]) > 1500
