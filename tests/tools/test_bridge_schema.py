"""The committed schema of Megatron Bridge is what the tool makes from the installed package."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.megatron
def test_committed_schema_is_as_generated_and_a_difference_is_told(tmp_path: Path) -> None:
    """Two checks in one process, as the import takes longest: of the committed file, and of one with a changed key."""
    (committed,) = (ROOT / "configs" / "schemas").glob("bridge-*.json")
    changed = tmp_path / committed.name
    shutil.copy(committed, changed)
    changed.write_text(
        changed.read_text().replace('"train.train_iters": ["int", "none"]', '"train.train_iters": "str"')
    )
    code = (
        "from tools.bridge_schema import main\n"
        f"print('committed', main(['--check']), flush=True)\n"
        f"print('changed', main(['--check', '--directory', {str(tmp_path)!r}]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "committed 0" in done.stdout, done.stdout[-3000:]
    assert "changed 1" in done.stdout
    assert '-  "train.train_iters": "str",' in done.stdout
    assert '+  "train.train_iters": ["int", "none"],' in done.stdout


def test_schema_has_one_key_on_a_line_and_is_sorted() -> None:
    for path in (ROOT / "configs" / "schemas").glob("bridge-*.json"):
        text = path.read_text()
        content = json.loads(text)
        assert list(content["keys"]) == sorted(content["keys"])
        assert text.count("\n") >= len(content["keys"])
        assert path.stat().st_size < 300_000
        assert path.name == f"bridge-{content['bridge']}.json"
