"""The committed indexes of Megatron Bridge's recipes are what the tool makes from the installed packages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.job import old_bridge
from tests.support.limits import seconds
from tests.support.warm import warm_python

ROOT = Path(__file__).resolve().parents[2]
INDEXES = sorted((ROOT / "configs" / "bridge").glob("recipes-*.json"))


@pytest.mark.megatron
@pytest.mark.parametrize(
    "python",
    [
        pytest.param(sys.executable, id="0.6.2"),
        pytest.param(old_bridge.PYTHON, id="0.3.1", marks=old_bridge.needed),
    ],
)
def test_committed_index_is_as_generated_and_a_difference_is_shown(python: str, tmp_path: Path) -> None:
    """One process, as the imports take longest: the committed file first, then one with a changed line."""
    code = f"""
import pathlib
from tools import bridge_recipes
index = bridge_recipes.generate()
bridge_recipes.generate = lambda: index
print("committed", bridge_recipes.main(["--check"]), flush=True)
name = f"recipes-{{index['bridge']}}.json"
text = pathlib.Path("configs/bridge", name).read_text()
pathlib.Path({str(tmp_path)!r}, name).write_text(text.replace('"task":"sft"', '"task":"sfd"', 1))
print("changed", bridge_recipes.main(["--check", "--directory", {str(tmp_path)!r}]))
"""
    done = subprocess.run(
        [warm_python(python), "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=seconds(250), check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "committed 0" in done.stdout, done.stdout[-3000:]
    assert "changed 1" in done.stdout
    assert '"task":"sfd"' in done.stdout


@pytest.mark.parametrize("path", INDEXES, ids=lambda path: path.stem)
def test_an_index_has_one_recipe_on_a_line_and_is_sorted(path: Path) -> None:
    text = path.read_text()
    content = json.loads(text)
    recipes = content["recipes"]
    assert list(recipes) == sorted(recipes)
    assert text.count("\n") > len(recipes)
    assert path.stat().st_size < 700_000
    assert path.name == f"recipes-{content['bridge']}.json"
    assert all(entry["alias_of"] in recipes for entry in recipes.values() if "alias_of" in entry)
    # Nothing of the machine that it was made on.
    assert not [word for word in ("site-packages", "/home", "/work", "/tmp") if word in text]


def test_what_cannot_be_run_is_there_with_the_reason() -> None:
    """Each of these fails for its user too: a file that the wheel lacks, a task that the model does not have."""
    content = json.loads((ROOT / "configs/bridge/recipes-0.6.2.json").read_text())
    failed = {name: entry["not_run"] for name, entry in content["recipes"].items() if "not_run" in entry}
    assert len(failed) == 6
    assert sum("te_quant.cfg" in reason for reason in failed.values()) == 5
    assert "PEFT is not currently supported" in failed["qwen3_next_80b_a3b_peft_1gpu_h100_bf16_config"]
