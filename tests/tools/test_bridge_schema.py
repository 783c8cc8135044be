"""The committed schemas of Megatron Bridge are what the tool makes from the installed packages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.job import old_bridge
from tests.support.limits import seconds
from tests.support.warm import warm_python

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = [
    pytest.param("0.6.2", sys.executable, id="0.6.2"),
    pytest.param("0.3.1", old_bridge.PYTHON, id="0.3.1", marks=old_bridge.needed),
]


@pytest.mark.megatron
@pytest.mark.parametrize(("version", "python"), PYTHONS)
def test_committed_schema_is_as_generated_and_a_difference_is_shown(version: str, python: str, tmp_path: Path) -> None:
    """Two checks in one process, as the import takes longest: of the committed file, and of one with a changed key."""
    committed = ROOT / "configs" / "schemas" / f"bridge-{version}.json"
    line = next(line for line in committed.read_text().splitlines() if '"train.train_iters"' in line)
    wrong = '  "train.train_iters": "str",'
    (tmp_path / committed.name).write_text(committed.read_text().replace(line, wrong))
    code = (
        "from tools.bridge_schema import main\n"
        f"print('committed', main(['--check']), flush=True)\n"
        f"print('changed', main(['--check', '--directory', {str(tmp_path)!r}]))\n"
    )
    done = subprocess.run(
        [warm_python(python), "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=seconds(250), check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "committed 0" in done.stdout, done.stdout[-3000:]
    assert "changed 1" in done.stdout
    assert f"-{wrong}" in done.stdout
    assert f"+{line}" in done.stdout


def test_schema_has_one_key_on_a_line_and_is_sorted() -> None:
    for path in (ROOT / "configs" / "schemas").glob("bridge-*.json"):
        text = path.read_text()
        content = json.loads(text)
        assert list(content["keys"]) == sorted(content["keys"])
        assert text.count("\n") >= len(content["keys"])
        assert path.stat().st_size < 300_000
        assert path.name == f"bridge-{content['bridge']}.json"


def test_each_index_of_recipes_has_a_schema_of_its_release() -> None:
    places = {"schemas": "bridge-", "bridge": "recipes-"}
    schemas, indexes = (
        {path.stem.removeprefix(prefix) for path in (ROOT / "configs" / place).glob(f"{prefix}*.json")}
        for place, prefix in places.items()
    )
    assert schemas == indexes
