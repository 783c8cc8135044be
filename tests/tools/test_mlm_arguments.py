"""The committed table of Megatron-LM's arguments, and the one that the tool makes from the installed packages."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.limits import seconds
from tests.support.warm import warm_python

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.megatron
def test_committed_table_is_as_generated_and_a_difference_is_shown(tmp_path: Path) -> None:
    """Two checks in one process: of the committed file, and of one with a changed key."""
    (committed,) = (ROOT / "configs" / "mlm").glob("arguments-*.json")
    line = next(line for line in committed.read_text().splitlines() if line.startswith('  "train_iters"'))
    wrong = line.replace("train.train_iters", "train.train_samples")
    (tmp_path / committed.name).write_text(committed.read_text().replace(line, wrong))
    code = (
        "from tools.mlm_arguments import main\n"
        "print('committed', main(['--check']), flush=True)\n"
        f"print('changed', main(['--check', '--directory', {str(tmp_path)!r}]))\n"
    )
    done = subprocess.run(
        [warm_python(), "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=seconds(250), check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "committed 0" in done.stdout, done.stdout[-3000:]
    assert "changed 1" in done.stdout
    assert f"-{wrong}" in done.stdout
    assert f"+{line}" in done.stdout


def test_the_table_has_one_argument_on_a_line() -> None:
    (path,) = (ROOT / "configs" / "mlm").glob("arguments-*.json")
    table = json.loads(path.read_text())
    assert list(table["arguments"]) == sorted(table["arguments"])
    assert path.read_text().count("\n") >= len(table["arguments"]) + len(table["keys"])
    assert (ROOT / "configs" / "schemas" / f"bridge-{table['bridge']}.json").exists()
