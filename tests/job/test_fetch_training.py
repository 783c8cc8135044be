"""Two real ranks whose architecture, tokenizer and weights come from a hub that wants a token."""

import json
import math
from collections import Counter
from pathlib import Path

import pytest

from tests.job.hub_server import hub
from tests.job.ranks import Ranks, make_run
from tests.job.test_finetuning import COMPLETION, FP32, MODEL, PROMPT, said

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(400)]

TOKEN = "hf_theValueThatNobodyMayWriteDown"
OVERRIDES = (
    *("model.seq_length=16", "dataset.seq_length=16", "dataset.num_workers=0", "train.train_iters=2"),
    *("scheduler.lr_warmup_iters=0", "optimizer.lr=1e-2", "checkpoint.save_interval=0", *FP32),
)


def test_two_ranks_train_with_what_one_of_them_fetched(tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    data.mkdir()
    (loss,) = said(MODEL, str(model), f"{PROMPT} {COMPLETION}", str(len(PROMPT.split())))
    (data / "training.jsonl").write_text(f"{json.dumps({'input': PROMPT, 'output': COMPLETION})}\n" * 64)
    files = {path.name: path.read_bytes() for path in model.iterdir()}

    run = make_run(tmp_path / "run", "llama32_1b_sft.py", OVERRIDES)
    request = json.loads((run.path / "argv.json").read_text())
    request["arguments"] = {"hf_path": "org/small", "data": str(data)}
    (run.path / "argv.json").write_text(json.dumps(request))
    with hub(models={"org/small": {**files, "README.md": b"nobody needs this"}}, token=TOKEN) as server:
        environment = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": server.endpoint, "HF_TOKEN": TOKEN}
        with Ranks(run, 2, environment=environment) as running:
            assert running.wait() == [0, 0], running.tails()
    assert math.isclose(run.losses()[1], float(loss), rel_tol=1e-4)
    assert server.bodies() == Counter(files.keys())
    logs = [run.log(rank) for rank in range(2)]
    assert sum("fetching the weights of org/small" in log for log in logs) == 1
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
