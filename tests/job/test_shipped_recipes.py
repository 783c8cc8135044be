"""Each recipe that ships is valid on the GPUs that it is meant for, without network; old ones run unchanged."""

import ast
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.job.bridge_process import ROOT, ask

pytestmark = pytest.mark.megatron

RECIPES = ROOT / "recipes"
OLD = ROOT / "tests" / "job" / "old_recipes"


@dataclass(frozen=True)
class Meant:
    """The GPUs that a recipe is meant for, and what it must come to: TP, PP, CP, EP, DP, layers, width, vocabulary."""

    gpus: int
    parallel: tuple[int, int, int, int, int]
    shape: tuple[int, int, int]
    weights: str = ""
    """The architecture that a directory given as hf_path must have; empty where a recipe starts from random weights."""

    def arguments(self, base: Path) -> dict[str, str]:
        """What the recipe must be given, made below `base`."""
        if not self.weights:
            return {}
        path = base / self.weights
        path.mkdir(exist_ok=True)
        shutil.copy(ROOT / "configs" / "models" / f"{self.weights}.json", path / "config.json")
        return {"hf_path": str(path), "data": str(base)}


TABLE = {
    "vanilla_gpt_pretrain": Meant(1, (1, 1, 1, 1, 1), (2, 128, 0)),
    "qwen3_moe_pretrain": Meant(1, (1, 1, 1, 1, 1), (2, 128, 0)),
    "llama32_1b_pretrain": Meant(1, (1, 1, 1, 1, 1), (16, 2048, 128256)),
    "llama3_8b_pretrain": Meant(8, (2, 1, 1, 1, 4), (32, 4096, 128256)),
    "llama3_70b_pretrain": Meant(32, (4, 4, 2, 1, 1), (80, 8192, 128256)),
    "qwen3_8b_pretrain": Meant(8, (2, 1, 1, 1, 4), (36, 4096, 151936)),
    "qwen3_30b_a3b_pretrain": Meant(16, (1, 1, 1, 16, 16), (48, 2048, 151936)),
    "deepseek_v2_lite_pretrain": Meant(8, (1, 1, 1, 8, 8), (27, 2048, 102400)),
    "deepseek_v3_pretrain": Meant(1024, (2, 16, 1, 64, 32), (61, 7168, 129280)),
    "llama32_1b_sft": Meant(1, (1, 1, 1, 1, 1), (16, 2048, 0), weights="llama32_1b"),
    "llama32_1b_lora": Meant(1, (1, 1, 1, 1, 1), (16, 2048, 0), weights="llama32_1b"),
    "qwen3_8b_sft": Meant(8, (4, 1, 1, 1, 2), (36, 4096, 0), weights="qwen3_8b"),
}
TASKS = {"pretrain": "pretraining", "sft": "supervised fine-tuning (SFT)", "lora": "LoRA"}
SIZES = ("tensor_model", "pipeline_model", "context", "expert_model", "data")
READ = ("model.num_layers", "model.hidden_size", "tokenizer.vocab_size", "tokenizer.tokenizer_type", "checkpoint.save")

KEYWORDS = """
from megatron.bridge.recipes.llama.llama3 import llama3_8b_pretrain_config
from megatron.bridge.recipes.qwen import qwen25_500m_pretrain_config
import megatron.bridge.recipes as recipes

def pipeline():
    return llama3_8b_pretrain_config(pipeline_model_parallel_size=2, context_parallel_size=1, lr=1e-3, mock=True,
                                     min_lr=1e-4, precision_config="fp16_mixed", check_for_nan_in_grad=False)

def small():
    return qwen25_500m_pretrain_config(use_null_tokenizer=True, global_batch_size=4, micro_batch_size=2)

def directory(path: str):
    return recipes.llama32_1b_pretrain_config(hf_path=path, seq_length=2048, name="trial", global_batch_size=8)

def mistaken():
    return recipes.llama32_1b_pretrain_config(
        sequence_length=2048)

def nowhere():
    return recipes.llama32_1b_pretrain_config(freeze_vision_model=True)
"""


def request(path: Path, function: str = "configure", **more: Any) -> dict[str, Any]:
    """A question to bridge_process.py."""
    base = {"recipe": {"path": path.name, "function": function}, "base": str(path.parent), "world_size": 1, "read": []}
    return {**base, **more}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All answers, from one process."""
    base = tmp_path_factory.mktemp("old")
    keywords = base / "keywords_recipe.py"
    keywords.write_text(KEYWORDS)
    model = base / "a_model"
    model.mkdir()
    shape = json.loads((ROOT / "configs/models/llama32_3b.json").read_text())
    (model / "config.json").write_text(json.dumps({**shape, "num_hidden_layers": 7}))
    note = OLD / "deepseek_v2_lite_keywords.py"
    read = [*READ, "model.seq_length", "dataset.seq_length", "checkpoint.save_interval", "validation.eval_interval"]
    deepep = {"moe_token_dispatcher_type": "deepep"}
    requests = {
        **{
            name: request(RECIPES / f"{name}.py", world_size=row.gpus, read=READ, arguments=row.arguments(base))
            for name, row in TABLE.items()
        },
        "note": request(note, world_size=8, read=read),
        "note deepep": request(note, world_size=8, arguments=deepep),
        "note hf_path": request(note, world_size=8, read=READ, arguments={"hf_path": "deepseek-ai/DeepSeek-V2"}),
        "pipeline": request(
            keywords,
            "pipeline",
            world_size=2,
            read=["optimizer.lr", "optimizer.min_lr", "mixed_precision", "model.pipeline_dtype", "dataset.split"],
        ),
        "small": request(keywords, "small", read=["tokenizer.tokenizer_type", "train.global_batch_size"]),
        "directory": request(
            keywords, "directory", arguments={"path": str(model)}, read=["model.num_layers", "dataset.seq_length"]
        ),
        "mistaken": request(keywords, "mistaken"),
        "nowhere": request(keywords, "nowhere"),
    }
    with pytest.MonkeyPatch.context() as patch:
        # An empty cache, and the hub out of reach.
        patch.setenv("HF_HUB_CACHE", str(base / "hub"))
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        return dict(zip(requests, ask(list(requests.values())), strict=True))


def test_every_recipe_is_in_the_table_and_says_what_it_is_for() -> None:
    assert {path.stem for path in RECIPES.glob("*.py")} == set(TABLE)
    for name, row in TABLE.items():
        said = (ast.get_docstring(ast.parse((RECIPES / f"{name}.py").read_text())) or "").partition("\n")[0]
        assert TASKS[name.rpartition("_")[2]] in said, name
        assert re.search(rf"\b{row.gpus} GPU", said), f"{name}: {said}"


@pytest.mark.parametrize("name", TABLE)
def test_recipe_is_valid_where_it_is_meant_to_run(name: str, answers: dict[str, dict[str, Any]]) -> None:
    answer, row = answers[name], TABLE[name]
    assert answer["ok"], answer
    assert tuple(answer[f"{size}_parallel_size"] for size in SIZES) == row.parallel
    layers, width, vocabulary = row.shape
    assert (answer["read"]["model.num_layers"], answer["read"]["model.hidden_size"]) == (str(layers), str(width))
    tokenizer = "'HuggingFaceTokenizer'" if row.weights else "'NullTokenizer'"
    assert answer["read"]["tokenizer.tokenizer_type"] == tokenizer
    assert not vocabulary or answer["read"]["tokenizer.vocab_size"] == str(vocabulary)


def test_a_recipe_with_keywords_runs_unchanged(answers: dict[str, dict[str, Any]]) -> None:
    answer = answers["note"]
    assert answer["ok"], answer
    assert [answer[f"{size}_parallel_size"] for size in SIZES] == [8, 1, 1, 2, 1]
    assert (answer["train_iters"], answer["global_batch_size"], answer["micro_batch_size"]) == (500, 64, 1)
    read = answer["read"]
    assert read["model.seq_length"] == read["dataset.seq_length"] == "4096"
    assert read["checkpoint.save_interval"] == "0"
    assert read["validation.eval_interval"] == "100"
    assert answers["note deepep"]["moe_token_dispatcher_type"] == "flex"


def test_hf_path_is_the_architecture_of_that_model(answers: dict[str, dict[str, Any]]) -> None:
    other = answers["note hf_path"]
    assert other["ok"], other
    assert (other["read"]["model.num_layers"], other["read"]["model.hidden_size"]) == ("60", "5120")
    assert other["tensor_model_parallel_size"] == 8
    assert answers["directory"]["ok"], answers["directory"]
    assert answers["directory"]["read"] == {"model.num_layers": "7", "dataset.seq_length": "2048"}


def test_keywords_go_where_they_belong(answers: dict[str, dict[str, Any]]) -> None:
    assert answers["pipeline"]["ok"], answers["pipeline"]
    assert answers["pipeline"]["read"] == {
        "optimizer.lr": "0.001",
        "optimizer.min_lr": "0.0001",
        "mixed_precision": "'fp16_mixed'",
        "model.pipeline_dtype": "torch.bfloat16",
        "dataset.split": "'1,1,1'",
    }
    assert answers["small"]["ok"], answers["small"]
    assert answers["small"]["read"] == {"tokenizer.tokenizer_type": "'NullTokenizer'", "train.global_batch_size": "4"}


def test_an_unknown_keyword_is_refused_with_those_that_are_known(answers: dict[str, dict[str, Any]]) -> None:
    answer = answers["mistaken"]
    assert answer["type"] == "UserError", answer
    assert re.search(r"\(\) has no keyword 'sequence_length'; it has seq_length, ", answer["error"])
    assert re.search(r"keywords_recipe\.py:(17|18)$", answer["where"])
    assert "no model.freeze_vision_model" in answers["nowhere"]["error"]
