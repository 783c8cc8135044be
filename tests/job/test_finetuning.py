"""Fine-tuning on CPU from a small Hugging Face model: it starts from those weights, and LoRA saves adapters alone."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.job.convert_process import convert_all
from tests.job.ranks import Run, make_run, train
from tests.support.warm import warm_python

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(400)]

MODEL = """
import json, sys
from pathlib import Path
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

directory = sys.argv[1]
names = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(60))]
tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory)

torch.manual_seed(1)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=256, tie_word_embeddings=True, rope_theta=5e5,
))
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(6)  # far from what random initialisation gives, so that the loss differs
model.save_pretrained(directory)

ids = torch.tensor([[tokenizer.token_to_id(word) for word in sys.argv[2].split()] + [2]])
labels = ids.clone()
labels[:, : int(sys.argv[3])] = -100
print("LOSS", model(input_ids=ids, labels=labels).loss.item())
"""

KEYS = """
import sys
from torch.distributed.checkpoint import FileSystemReader
names = FileSystemReader(sys.argv[1]).read_metadata().state_dict_metadata
print("NAMES", *(name for name in names if "layers" in name and "optimizer" not in name))
"""

WATCHED = '''
"""A shipped recipe whose model is compared, parameter by parameter, at its first step and at the process's end."""

import atexit
import json
import os
from pathlib import Path

from llama32_1b_lora import configure as shipped

BEFORE = {}


def configure(hf_path: Path, data: Path):
    cfg = shipped(hf_path, data)
    cfg.model.register_pre_wrap_hook(watch)
    return cfg


def watch(model):
    model[0].register_forward_pre_hook(remember)
    atexit.register(compare, model[0])
    return model


def remember(model, _arguments):
    if not BEFORE:
        BEFORE.update({name: one.detach().clone() for name, one in model.named_parameters()})


def compare(model):
    changed = {name: not bool((one == BEFORE[name]).all()) for name, one in model.named_parameters()}
    Path(os.environ["LAUNCHER_RUN_DIR"], "changed.json").write_text(json.dumps(changed))
'''

FP32 = ("mixed_precision=null", "model.bf16=false", "model.params_dtype=float32")
# megatron-core 0.19.2's optimizer without mixed precision cannot be saved where some parameters are frozen.
PRECISION = {"llama32_1b_sft": (FP32, 1e-4), "llama32_1b_lora": ((), 2e-2)}
"""Overrides that choose the precision, and how close the first loss is then to that of the Hugging Face model."""

PROMPT, COMPLETION = "w1 w2 w3", "w4 w8 w15 w16 w23 w42"


def said(code: str, *arguments: str) -> list[str]:
    """The words of the last line that a small program prints."""
    done = subprocess.run([warm_python(), "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """A model's directory, one with samples that are all the same, and the model's own loss on such a sample."""
    model, data = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("data")
    (loss,) = said(MODEL, str(model), f"{PROMPT} {COMPLETION}", str(len(PROMPT.split())))
    line = json.dumps({"input": PROMPT, "output": COMPLETION})
    (data / "training.jsonl").write_text(f"{line}\n" * 64)
    return model, data, float(loss)


def run_recipe(name: str, directory: Path, model: Path, data: Path, expect: int | None = 0) -> Run:
    """Five iterations of a shipped recipe, on one rank; that of LoRA notes which parameters have changed."""
    lengths = ("model.seq_length=16", "dataset.seq_length=16", "dataset.num_workers=0")
    schedule = ("train.train_iters=5", "scheduler.lr_warmup_iters=0", "optimizer.lr=1e-2", "checkpoint.save_interval=5")
    file = "watched.py" if name.endswith("lora") else f"{name}.py"
    run = make_run(directory / name, file, [*lengths, *schedule, *PRECISION[name][0]], files={"watched.py": WATCHED})
    request = json.loads((run.path / "argv.json").read_text())
    request["arguments"] = {"hf_path": str(model), "data": str(data)}
    (run.path / "argv.json").write_text(json.dumps(request))
    train(run, ranks=1, expect=expect)
    return run


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, material: tuple[Path, Path, float]) -> Run:
    """A run of five iterations with adapters."""
    model, data, _ = material
    return run_recipe("llama32_1b_lora", tmp_path_factory.mktemp("lora"), model, data)


@pytest.mark.parametrize("name", ["llama32_1b_sft", "llama32_1b_lora"])
def test_training_starts_from_the_weights_that_were_given(
    name: str, tmp_path: Path, material: tuple[Path, Path, float], request: pytest.FixtureRequest
) -> None:
    model, data, loss = material
    run: Run = request.getfixturevalue("lora") if name.endswith("lora") else run_recipe(name, tmp_path, model, data)
    losses = run.losses()
    assert not math.isclose(loss, math.log(64), rel_tol=0.1), "the model should not look like a random one"
    assert math.isclose(losses[1], loss, rel_tol=PRECISION[name][1])
    assert losses[5] < losses[1]
    names = said(KEYS, str(run.path / "checkpoints" / "iter_0000005"))
    adapters = [one for one in names if "adapter" in one]
    assert names and (adapters == names if name.endswith("lora") else not adapters)
    if name.endswith("lora"):
        changed = json.loads((run.path / "changed.json").read_text())
        assert len(changed) > len(adapters) > 0
        # Of the model itself not a bit is another one.
        assert {one for one, whether in changed.items() if whether} == {one for one in changed if "adapter" in one}


LOSSES = """
import sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapters, merged, words, prompt = sys.argv[1:]
ids = torch.tensor([[4 + int(word[1:]) for word in words.split()] + [2]])
labels = ids.clone()
labels[:, : int(prompt)] = -100
models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (base, base, merged)]
models[1] = PeftModel.from_pretrained(models[1], adapters)
with torch.no_grad():
    print("LOSSES", *(float(model(input_ids=ids, labels=labels).loss) for model in models))
"""


def test_adapters_leave_as_peft_and_transformers_load_them(
    lora: Run, tmp_path: Path, material: tuple[Path, Path, float]
) -> None:
    """Trained adapters in peft's format, and merged: base weights bit by bit, the same logits, and a lower loss."""
    model, _, loss = material
    adapters, merged, other = tmp_path / "adapters", tmp_path / "merged", tmp_path / "dora/iter_0000005"
    shutil.copytree(lora.path / "checkpoints/iter_0000005", other)
    config = other / "run_config.yaml"
    config.write_text(config.read_text().replace("megatron.bridge.peft.lora.LoRA", "megatron.bridge.peft.dora.DoRA"))
    out, whole, half, dora, moved = convert_all(
        [
            {"do": "export", "source": str(lora.path / "checkpoints"), "target": str(adapters)},
            {
                "do": "export",
                "source": str(lora.path / "checkpoints"),
                "target": str(merged),
                "merge": True,
                "dtype": "float32",
            },
            {"do": "export", "source": str(lora.path / "checkpoints"), "target": str(tmp_path / "half"), "merge": True},
            {"do": "export", "source": str(other), "target": str(tmp_path / "no")},
            {
                "do": "export",
                "source": str(lora.path / "checkpoints"),
                "target": str(tmp_path / "no2"),
                "architecture": "no/model",
            },
        ]
    )
    for answer in (out, whole, half):
        assert answer.get("answer") and answer["base"] == str(model), json.dumps(answer)
        assert answer["logits"]["compared"] and answer["logits"]["ok"]
        assert answer["tensors"] == answer["bit_exact"] > 10
    assert out["adapters"]["tensors"] >= 4 and out["adapters"]["untrained"] == []
    assert 0 < whole["adapters"]["changed"] < whole["adapters"]["tensors"]
    settings = json.loads((adapters / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(model) and settings["use_dora"] is False
    assert "magnitude vectors of DoRA" in dora["error"]
    assert "no/model" in moved["error"] or "no/model" in str(moved["where"])
    prompt = str(len(PROMPT.split()))
    before, by_peft, by_merging = map(
        float, said(LOSSES, str(model), str(adapters), str(merged), f"{PROMPT} {COMPLETION}", prompt)
    )
    assert math.isclose(before, loss, rel_tol=1e-4)
    assert math.isclose(by_peft, by_merging, rel_tol=1e-3) and by_peft < before


def test_without_weights_nothing_is_trained(tmp_path: Path, material: tuple[Path, Path, float]) -> None:
    model = tmp_path / "only_config"
    model.mkdir()
    for file in material[0].glob("*.json"):
        (model / file.name).write_bytes(file.read_bytes())
    run = run_recipe("llama32_1b_sft", tmp_path, model, material[1], expect=None)
    end = run.end(0)
    assert end["outcome"] == "failed"
    assert run.losses() == {}
