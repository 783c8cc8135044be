"""Fine-tuning files, run small and natively: all weights and adapters, from weights and samples that are here."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.backends.running import User
from tests.cloudai.test_running import TEST, files, user  # noqa: F401
from tests.job.test_finetuning import COMPLETION, MODEL, PROMPT, said
from tests.support.warm import warm_python

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(1500)]


def test_sft_and_lora_train_from_a_file(user: User) -> None:  # noqa: F811
    """task sft and lora, data=squad in a directory, pretrained weights. Cost: about 60 s."""
    profile = user.directory / "clusters/virtual.toml"
    profile.write_text(f'{profile.read_text()}python = "{warm_python()}"\n')
    model, data = user.directory / "model", user.directory / "samples"
    data.mkdir()
    (data / "training.jsonl").write_text(f"{json.dumps({'input': PROMPT, 'output': COMPLETION})}\n" * 64)
    (expected,) = said(MODEL, str(model), f"{PROMPT} {COMPLETION}", str(len(PROMPT.split())))
    test = {
        **TEST,
        "extra_cmd_args": {
            "hf_path": str(model),
            "tokenizer": str(model),
            "dataset.num_workers": "0",
            "mixed_precision": "null",
            "model.bf16": "false",
            "model.params_dtype": "float32",
            "checkpoint.save": "null",
            "validation.eval_iters": "0",
        },
        "cmd_args": {
            "model_family_name": "llama",
            "model_recipe_name": "llama32_1b",
            "use_recipes": True,
            "gpu_type": "h100",
            "num_gpus": 1,
            "task": "sft",
            "data": "squad",
            "dataset_root": str(data),
            "max_steps": 5,
            "seq_length": 16,
            "mb": 1,
            "gb": 8,
            "lr": 1e-2,
            "warmup_iters": 0,
        },
    }
    tests: list[dict[str, Any]] = [
        {"id": "all", "test_name": "small"},
        {"id": "adapters", "test_name": "small", "cmd_args": {"task": "lora"}},
    ]
    options = files(user, tests, test)
    done = user.run("cloudai", "run", *options, "--json", timeout_s=900, status=None)
    assert done.returncode == 0, done.stderr[-4000:]
    answer = json.loads(done.stdout)
    for one in answer["cases"]:
        lines = (Path(one["run_dir"]) / "attempts/000/metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        assert losses[0] == pytest.approx(float(expected), abs=2e-2)
        assert losses[-1] < losses[0]
        assert len(losses) == 5
