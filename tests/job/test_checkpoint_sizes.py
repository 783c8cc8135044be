"""The plan's estimate of checkpoints against those that real Megatron writes, on CPU.

Cost: about 10 s of a trained iteration for each shape.
"""

import json
import subprocess
from typing import Any

import pytest

from launcher.planning.checkpoint_space import estimate
from tests.job.override_records import override_records
from tests.job.ranks import ROOT, SETTINGS, make_run, train
from tests.support.limits import seconds
from tests.support.warm import warm_python

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(300)]

WIDE = ("model.hidden_size=256", "model.ffn_hidden_size=1024", "tokenizer.vocab_size=8191", "train.train_iters=1")
SHAPES: dict[str, tuple[str, ...]] = {
    "DP 2, distributed optimizer": (),
    "TP 2, not distributed": (
        "model.tensor_model_parallel_size=2",
        "optimizer.use_distributed_optimizer=false",
        "ddp.use_distributed_optimizer=false",
    ),
    "PP 2": ("model.pipeline_model_parallel_size=2", "model.share_embeddings_and_output_weights=true"),
}


def resolved(overrides: tuple[str, ...]) -> Any:
    """The checked configuration on two ranks."""
    request = {
        "recipe": {"path": str(ROOT / "recipes" / "vanilla_gpt_pretrain.py"), "function": "configure"},
        "arguments": {},
        "overrides": override_records(overrides),
        "options": {**SETTINGS, "device": "cpu"},
        "world_size": 2,
        "ranks_per_node": 2,
        "resumed": None,
    }
    done = subprocess.run(
        [warm_python(), str(ROOT / "entrypoint.py"), "--check-config"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=seconds(120),
        check=False,
    )
    answer = json.loads(done.stdout)
    assert answer["ok"], answer
    return answer["resolved"]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_estimate_is_within_five_per_cent_of_a_real_checkpoint(shape: str, tmp_path: Any) -> None:
    overrides = (*WIDE, *SHAPES[shape])
    found = estimate(resolved(overrides), 2)
    run = make_run(tmp_path / "run", overrides=overrides)
    # The plan says of the first save what it needs: more than any disk has.
    (run.path / "plan.json").write_text(json.dumps({"checkpoints": {"bytes": 10**18}}))
    train(run)
    path = run.path / "checkpoints" / "iter_0000001"
    files = [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"{shape}: estimated {found.bytes} bytes, {found.files} files; written {size} bytes, {len(files)} files")
    assert found.bytes == pytest.approx(size, rel=0.05)
    assert len(files) <= found.files <= 2 * len(files)
    assert (found.saved, found.at_once) == (1, 1)
    assert "the save of iteration 1 needs about 888.2 PiB (as the plan estimates)" in run.log(0)
    (event,) = (line for line in run.lines("timeline.jsonl") if line["event"] == "no_space")
    assert (event["iteration"], event["bytes"]) == (1, 10**18)
