"""Real Megatron inside an image, under bubblewrap: the same losses as on the bare machine."""

import json
import sys
from pathlib import Path

import pytest

from tests.backends.containers import contained, logs, missing
from tests.backends.running import ROOT
from tests.support.warm import warm_python

VANILLA = str(ROOT / "recipes/vanilla_gpt_pretrain.py")
SHORT = ("train.train_iters=4", "checkpoint.save=null")

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(900)]


def losses(run: Path) -> list[float]:
    lines = (run / "attempts/000/metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines)]


def test_training_in_an_image_gives_the_losses_of_the_bare_machine(image_file: Path, tmp_path: Path) -> None:
    if reason := missing("bwrap"):
        pytest.skip(reason)
    # The image has no training stack: this checkout's is mounted at its own place, to be read.
    stack = sorted({sys.base_prefix, sys.prefix, str(ROOT)})
    mounts = [f"{path}:{path}:ro" for path in stack if not any(path.startswith(f"{other}/") for other in stack)]
    user = contained(tmp_path, "bwrap", image_file, mounts=mounts, python=sys.executable)
    common = (VANILLA, *SHORT, "--gpus-per-node", "2", "--json")
    inside = user.user.run("run", *common, "--cluster", "alone", "--image", str(image_file), timeout_s=600)
    run = Path(json.loads(inside.stdout)["run_dir"])
    bare = user.user.run("run", *common, "--cluster", "local", "--python", warm_python(), timeout_s=600)
    assert len(losses(run)) == 4
    assert losses(run) == losses(Path(json.loads(bare.stdout)["run_dir"]))
    assert logs(run).count("launcher: unpacking") == 1
    assert json.loads((run / "plan.json").read_text())["runtime"] == "bwrap"
