"""Arguments that every recipe takes, as the installed Bridge's own recipes and a file understand them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.job.bridge_process import ask

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(300)]

WEIGHTS = "checkpoint.pretrained_checkpoint={base}/weights"
SFT, PEFT, PRETRAIN = "llama32_1b_sft_config", "llama32_1b_peft_config", "llama32_1b_pretrain_config"
BOTH = ["peft.__class__.__name__", "peft.dim"]

RIGHT: dict[str, tuple[str, dict[str, str], list[str], dict[str, str]]] = {
    "a recipe's own parameter": (PEFT, {"peft_scheme": "dora"}, [WEIGHTS], {BOTH[0]: "'DoRA'"}),
    "adapters on a recipe without": (
        SFT,
        {"peft": "lora"},
        [WEIGHTS, "peft.dim=16"],
        {BOTH[0]: "'LoRA'", BOTH[1]: "16"},
    ),
    "other adapters": (PEFT, {"peft": "dora"}, [WEIGHTS], {BOTH[0]: "'DoRA'"}),
    "no adapters": (PEFT, {"peft": "none"}, [], {"peft": "None"}),
    "what other adapters had, in a file": ("file.py", {"peft": "dora"}, [WEIGHTS], {BOTH[0]: "'DoRA'", BOTH[1]: "5"}),
    "keywords of before 0.3.1": (
        PRETRAIN,
        {
            "tensor_model_parallel_size": "2",
            "seq_length": "1024",
            "precision_config": "fp16_mixed",
            "pipeline_dtype": "bf16",
            "lr": "1e-3",
            "eval_iters": "3",
            "mock": "true",
        },
        ["model.seq_length=512", "dataset.seq_length=512"],
        {
            "model.tensor_model_parallel_size": "2",
            "model.seq_length": "512",
            "mixed_precision": "'fp16_mixed'",
            "model.pipeline_dtype": "torch.bfloat16",
            "optimizer.lr": "0.001",
            "validation.eval_iters": "3",
            "dataset.blend": "None",
        },
    ),
    "a benchmark recipe": (
        "llama3_8b_pretrain_8gpu_h100_bf16_config",
        {"micro_batch_size": "2"},
        [],
        {"train.micro_batch_size": "2"},
    ),
    "samples": (
        SFT,
        {"data": "{base}/s.jsonl", "tokenizer": "{base}/tokenizer"},
        ["dataset.num_workers=0"],
        {
            "dataset.__class__.__name__": "'GPTSFTDatasetConfig'",
            "dataset.preprocessing.prompt_column": "'question'",
            "dataset.seq_length": "4096",
            "dataset.enable_offline_packing": "True",
            "dataset.do_validation": "False",
            "tokenizer.tokenizer_model": "'{base}/tokenizer'",
        },
    ),
    "columns that have other names": (
        SFT,
        {"data": "{base}/odd", "data_columns": "q,a", "tokenizer": "{base}/tokenizer"},
        [],
        {"dataset.preprocessing.completion_column": "'a'", "dataset.do_validation": "True"},
    ),
    "samples of the hub": (
        SFT,
        {"data": "hf:squad"},
        [],
        {"dataset.hf_dataset.dataset_name": "'squad'", "dataset.preprocessing.prompt_column": "'prompt'"},
    ),
    "a data set of the hub with a subset": (
        SFT,
        {"data": "hf:owner/set:main"},
        [],
        {
            "dataset.hf_dataset.path_or_dataset": "'owner/set'",
            "dataset.hf_dataset.subset": "'main'",
            "dataset.preprocessing.__class__.__name__": "'ChatSFTPreprocessingConfig'",
        },
    ),
    "mock data for a recipe that fine-tunes": (
        SFT,
        {"data": "mock"},
        [],
        {"dataset.__class__.__name__": "'GPTDatasetConfig'", "dataset.blend": "None", "dataset.num_workers": "1"},
    ),
    "mock pictures": (
        "qwen25_vl_3b_sft_config",
        {"data": "mock", "hf_path": "{base}/seeing"},
        [],
        {
            "dataset.__class__.__name__": "'MockVLMSFTDatasetConfig'",
            "dataset.hf_processor_path": "'{base}/seeing'",
            "model.num_layers": "2",
        },
    ),
    "pictures from a file": (
        "qwen25_vl_3b_sft_config",
        {"data": "{base}/talks.jsonl", "hf_path": "{base}/seeing"},
        [],
        {"dataset.source.path_or_dataset": "'json'", "dataset.hf_processor_path": "'{base}/seeing'"},
    ),
}

WRONG: dict[str, tuple[str, dict[str, str], list[str]]] = {
    "this recipe pretrains, but adapters need the weights": (PRETRAIN, {"peft": "lora"}, []),
    "model.tensor_model_parallel_size takes an integer, not": (PRETRAIN, {"tensor_model_parallel_size": "two"}, []),
    "takes no arguments, and 'foo' was given": (PRETRAIN, {"foo": "1"}, []),
    "Megatron Bridge has no recipe 'llama32_1b_finetune_config'": ("llama32_1b_finetune_config", {}, []),
    "text needs a tokenizer, but this recipe's is NullTokenizer": (PRETRAIN, {"data": "{base}/s.jsonl"}, []),
    "{base}/nope does not exist, nor does {base}/nope.bin": (PRETRAIN, {"data": "{base}/nope"}, []),
    "none of the samples' columns (q, a) is known": (SFT, {"data": "{base}/odd"}, []),
    "there is no column 'b'; the columns are q, a": (SFT, {"data": "{base}/odd", "data_columns": "q,b"}, []),
    "does not begin with a line of JSON": (SFT, {"data": "{base}/broken.jsonl"}, []),
    "{base}/empty has nothing to train on": (SFT, {"data": "{base}/empty"}, []),
    "{base}/empty has no tokenizer": (SFT, {"tokenizer": "{base}/empty"}, []),
    "{base}/ids has token id 300, but the model's embedding has only 256 rows": (
        "file.py",
        {"data": "{base}/ids", "peft": "none"},
        ["dataset.split='1,0,0'"],
    ),
    "has 4 documents, and dataset.split=9999,8,2 leaves none for validation": (
        "file.py",
        {"data": "{base}/ids", "peft": "none"},
        ["tokenizer.vocab_size=301"],
    ),
    "a blend consists of .bin and .idx files, but {base}/empty is not such a pair": (
        SFT,
        {"data": "{base}/ids,{base}/empty"},
        [],
    ),
    "data_columns= has no effect without data=": (SFT, {"data_columns": "a,b"}, []),
    "this recipe does not build its model from a Hugging Face": (
        "vanilla_gpt_pretrain_config",
        {"hf_path": "{base}/seeing"},
        [],
    ),
    "there is no forward step 'vml'": (SFT, {"forward_step": "vml"}, []),
}

FILE = """
from megatron.bridge.peft.lora import LoRA
from vanilla_gpt_pretrain import configure as plain

def configure():
    cfg = plain()
    cfg.peft = LoRA(dim=5)
    cfg.validation.eval_iters = cfg.train.micro_batch_size = 1
    return cfg
"""

SEEING = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    "vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64},
}


def write_index(prefix: Path, documents: int, token: int) -> None:
    """Megatron's two files for documents of one token each, byte by byte."""
    (prefix.parent / f"{prefix.name}.bin").write_bytes(token.to_bytes(2, "little") * documents)
    counts = documents.to_bytes(8, "little") + (documents + 1).to_bytes(8, "little")
    head = b"MMIDIDX\x00\x00" + (1).to_bytes(8, "little") + bytes([8]) + counts
    lengths = b"".join((1).to_bytes(4, "little") for _ in range(documents))
    pointers = b"".join((2 * one).to_bytes(8, "little") for one in range(documents))
    bounds = b"".join(one.to_bytes(8, "little") for one in range(documents + 1))
    (prefix.parent / f"{prefix.name}.idx").write_bytes(head + lengths + pointers + bounds)


def make_files(base: Path) -> None:
    for name in ("tokenizer", "odd", "empty", "seeing", "weights"):
        (base / name).mkdir()
    for name in ("config.json", "model.safetensors"):
        (base / "weights" / name).write_text("{}")
    (base / "tokenizer" / "tokenizer.json").write_text("{}")
    (base / "s.jsonl").write_text('\n{"question": "a", "answer": "b"}\n')
    for split in ("train", "val"):
        (base / "odd" / f"{split}.jsonl").write_text('{"q": "a", "a": "b"}\n')
    (base / "talks.jsonl").write_text('{"conversation": []}\n')
    (base / "broken.jsonl").write_text("question,answer\n")
    (base / "seeing" / "config.json").write_text(json.dumps(SEEING))
    write_index(base / "ids", 4, 300)
    (base / "file.py").write_text(FILE)
    vanilla = Path(__file__).resolve().parents[2] / "recipes" / "vanilla_gpt_pretrain.py"
    (base / "vanilla_gpt_pretrain.py").write_text(vanilla.read_text())


def request(
    base: Path, recipe: str, given: dict[str, str], overrides: list[str], read: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What tests/job/bridge_process.py is asked."""
    return {
        "recipe": {"path": recipe, "function": "configure"} if recipe.endswith(".py") else {"bridge": recipe},
        "arguments": {name: text.replace("{base}", str(base)) for name, text in given.items()},
        "overrides": [text.replace("{base}", str(base)) for text in overrides],
        "read": list(read),
        "base": str(base),
        "world_size": 8,
    }


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """Where the files are, and the answer to each request of both tables, from one process."""
    base = tmp_path_factory.mktemp("base")
    make_files(base)
    requests = {name: request(base, *row[:3], read=tuple(row[3])) for name, row in RIGHT.items()}
    requests |= {name: request(base, *row) for name, row in WRONG.items()}
    return base, dict(zip(requests, ask(list(requests.values())), strict=True))


@pytest.mark.parametrize("name", RIGHT)
def test_it_means_what_it_says(name: str, answers: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    base, found = answers
    answer = found[name]
    assert answer["ok"], answer["error"]
    expected = {key: value.replace("{base}", str(base)) for key, value in RIGHT[name][3].items()}
    assert answer["read"] == expected


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused(name: str, answers: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    base, found = answers
    answer = found[name]
    assert answer["type"] == "UserError", answer["error"]
    assert name.replace("{base}", str(base)) in answer["error"]
