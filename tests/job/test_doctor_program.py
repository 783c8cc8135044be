"""The program of the doctor's ranks as plain processes, on the oldest Python that a job may have."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.discovery.code_files import code_files
from launcher.discovery.recipe import RecipeFile, read_recipe
from launcher.discovery.shipped_code import shipped_code
from tests.support.limits import seconds
from tests.support.rank_ends import record_of

ROOT = Path(__file__).resolve().parents[2]
OLDEST = Path.home() / ".pyenv/versions/3.10.13/bin/python"
PROGRAM = str(ROOT / "launcher/job/doctor/entry/doctor.py")


def run(directory: Path, python: str, expected: dict[str, Any], **environ: str) -> "subprocess.CompletedProcess[str]":
    """One rank in a run directory, as step.sh starts it."""
    recipe = read_recipe(PROGRAM, directory)
    assert isinstance(recipe, RecipeFile)
    assert recipe.parameters == ("expected",)
    for target, source in code_files(shipped_code(recipe), PROGRAM, directory):
        path = directory / "code" / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    (directory / "attempts/000/ranks").mkdir(parents=True, exist_ok=True)
    (directory / "argv.json").write_text(json.dumps({"arguments": {"expected": json.dumps(expected)}}))
    given = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_WORLD_SIZE": "1",
        "NODE_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "20111",
        "LAUNCHER_RUN_DIR": str(directory),
        "LAUNCHER_ATTEMPT": "000",
        "PATH": os.environ["PATH"],
        **environ,
    }
    argv = [python, "-X", "dev", str(directory / "code/entrypoint.py")]
    return subprocess.run(argv, env=given, capture_output=True, text=True, timeout=seconds(120), check=False)


@pytest.mark.parametrize("python", [sys.executable, str(OLDEST)], ids=["this", "oldest"])
def test_a_rank_leaves_its_findings(tmp_path: Path, python: str) -> None:
    if not Path(python).exists():
        pytest.skip(f"there is no {python}")
    done = run(tmp_path, python, {"device": "auto", "torch": False, "directories": [str(tmp_path)]})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    left = json.loads((tmp_path / "attempts/000/doctor/0000.json").read_text())
    verdicts = {check["name"]: check["verdict"] for check in left["checks"]}
    assert verdicts["memory"] == verdicts["rendezvous"] == verdicts["mounts"] == "ok"
    assert verdicts["collective"] == "skip"
    assert record_of(tmp_path / "attempts/000", 0)["outcome"] == "finished"
    assert not list(tmp_path.glob(".launcher-doctor*"))


def test_a_wrong_request(tmp_path: Path) -> None:
    assert run(tmp_path, sys.executable, {"colour": "red"}).returncode == 2
    assert run(tmp_path, sys.executable, {}, RANK="x").returncode == 2
    assert not (tmp_path / "attempts/000/doctor").exists()
