"""The same code with Megatron Bridge 0.3.1 on Python 3.11: recipes resolve as on 0.6.2, a run trains and resumes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.job import bridge_process, old_bridge
from tests.job.ranks import Run, make_run, train

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(600), old_bridge.needed]

OLD_RECIPE = {"path": "deepseek_v2_lite_keywords.py", "function": "configure"}
LLAMA = {"bridge": "llama32_1b_pretrain_config"}
SIZES = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
    "data_parallel_size",
    "global_batch_size",
    "micro_batch_size",
    "train_iters",
    "seq_length",
    "moe_token_dispatcher_type",
)


def check(recipe: dict[str, str], *overrides: str, ranks: int = 8, **arguments: str) -> dict[str, Any]:
    """A request of --check-config."""
    return {
        "recipe": recipe,
        "base": str(bridge_process.ROOT / "tests" / "job" / "old_recipes"),
        "arguments": arguments,
        "overrides": overrides,
        "options": {},
        "world_size": ranks,
        "ranks_per_node": 8,
    }


def read(recipe: dict[str, str], *keys: str, overrides: tuple[str, ...] = (), ranks: int = 16) -> dict[str, Any]:
    """A request for values, as the recipe and the overrides leave them."""
    request = check(recipe, *overrides, ranks=ranks)
    del request["options"]
    return {**request, "read": keys}


SHORT = ("train.train_iters=10", "train.eval_iters=2", "model.seq_length=512", "dataset.sequence_length=512")
NEWER = ("validation.eval_iters=3", "dataset.seq_length=512", "model.seq_length=512", "train.train_iters=10")
FIRST = {
    "as it was written": check(OLD_RECIPE, ranks=16),
    "deepep": check(OLD_RECIPE, ranks=16, moe_token_dispatcher_type="deepep"),
}
"""Asked of both releases."""
REQUESTS = {
    **FIRST,
    "one node": check(OLD_RECIPE),
    "one node, experts whole": check(OLD_RECIPE, "model.expert_tensor_parallel_size=1"),
    "keywords": read(
        OLD_RECIPE,
        "train.eval_interval",
        "dataset.sequence_length",
        "scheduler.lr_warmup_iters",
        "checkpoint.save_interval",
    ),
    "a recipe by name": check(LLAMA, *SHORT),
    "names of 0.6": check(LLAMA, *NEWER),
    "values by the names of 0.6": read(LLAMA, "train.eval_iters", "dataset.sequence_length", overrides=NEWER),
    "both names": check(LLAMA, "train.eval_iters=2", "validation.eval_iters=3"),
    "misspelt": check(LLAMA, "train.train_iter=3"),
    "wrong type": check(LLAMA, "train.train_iters=many"),
    "wrong size": check(LLAMA, "model.tensor_model_parallel_size=3"),
    "unknown recipe": check({"bridge": "vanilla_gpt_pretrain_config"}),
    "lengths differ": check(LLAMA, "model.seq_length=512"),
    "virtual stages on cpu": {
        **check(LLAMA, "model.pipeline_model_parallel_size=2", "model.virtual_pipeline_model_parallel_size=2"),
        "options": {"device": "cpu"},
    },
}


@pytest.fixture(scope="module")
def asked() -> list[Any]:
    return bridge_process.ask(list(REQUESTS.values()), 280, old_bridge.PYTHON, "--patches")


@pytest.fixture(scope="module")
def answers(asked: list[Any]) -> dict[str, dict[str, Any]]:
    return dict(zip(REQUESTS, asked[1:], strict=True))


@pytest.fixture(scope="module")
def newer() -> dict[str, dict[str, Any]]:
    """The answers of the release beside the launcher."""
    return dict(zip(FIRST, bridge_process.ask(list(FIRST.values())), strict=True))


@pytest.mark.parametrize("name", FIRST)
def test_a_recipe_for_older_releases_resolves_alike_on_both(
    name: str, answers: dict[str, dict[str, Any]], newer: dict[str, dict[str, Any]]
) -> None:
    old, new = answers[name], newer[name]
    assert old["ok"], old
    assert {key: old["resolved"][key] for key in SIZES} == {key: new["resolved"][key] for key in SIZES}
    layers = ("num_layers", "hidden_size", "num_moe_experts", "kv_lora_rank", "moe_router_topk")
    assert {key: old["resolved"]["config"]["model"][key] for key in layers} == {
        key: new["resolved"]["config"]["model"][key] for key in layers
    }
    assert old["resolved"]["global_batch_size"] == 64
    assert old["resolved"]["expert_tensor_parallel_size"] == 8
    assert new["resolved"]["expert_tensor_parallel_size"] == 1
    # Both say which keywords they understood, and where the architecture is from.
    assert any("takes no tensor_model_parallel_size" in note for note in old["notes"])
    assert any("the launcher's deepseek_v2_lite.json" in note for note in old["notes"])


def test_experts_are_split_as_that_release_splits_them(answers: dict[str, dict[str, Any]]) -> None:
    refused = answers["one node"]
    assert refused["error"].startswith("8 ranks cannot be divided by ETP 8 x EP 2 x PP 1 = 16; this Megatron Bridge")
    assert refused["hint"] == "set model.expert_tensor_parallel_size=1, or use a multiple of 16 ranks"
    assert answers["one node, experts whole"]["resolved"]["expert_tensor_parallel_size"] == 1


def test_keywords_are_set_under_the_names_of_that_release(answers: dict[str, dict[str, Any]]) -> None:
    assert answers["keywords"]["read"] == {
        "train.eval_interval": "100",
        "dataset.sequence_length": "4096",
        "scheduler.lr_warmup_iters": "50",
        "checkpoint.save_interval": "0",
    }


def test_a_recipe_of_that_release_takes_overrides(answers: dict[str, dict[str, Any]]) -> None:
    found = answers["a recipe by name"]
    assert found["ok"], found
    assert (found["resolved"]["train_iters"], found["resolved"]["seq_length"]) == (10, 512)
    assert found["resolved"]["env_vars"] == {}


def test_keys_of_a_newer_release_are_taken_for_what_they_are(answers: dict[str, dict[str, Any]]) -> None:
    found = answers["names of 0.6"]
    assert found["ok"], found
    for old, new in (("train.eval_iters=3", NEWER[0]), ("dataset.sequence_length=512", NEWER[1])):
        assert any(note.startswith(f"{new} is taken as {old}: ") for note in found["notes"])
    read = answers["values by the names of 0.6"]["read"]
    assert read == {"train.eval_iters": "3", "dataset.sequence_length": "512"}


@pytest.mark.parametrize(
    ("name", "error", "hint"),
    [
        ("both names", "validation.eval_iters is not a key of this release", "set train.eval_iters"),
        ("misspelt", "train.train_iter is unknown: TrainingConfig has no field", "did you mean train.train_iters"),
        ("wrong type", "train.train_iters takes an integer or null, not the string 'many'", ""),
        ("wrong size", "8 ranks cannot be divided by TP 3 x PP 1 x CP 1 = 3", "change model.tensor_model_parallel"),
        ("unknown recipe", "Megatron Bridge has no recipe 'vanilla_gpt_pretrain_config'", "did you mean "),
        ("virtual stages on cpu", "does not run on CPU with megatron-core 0.16: its losses vary", "leave it out"),
        ("lengths differ", "model.seq_length=512 and dataset.sequence_length=8192 differ", "set both"),
    ],
)
def test_what_is_wrong_is_refused_with_a_way_out(
    answers: dict[str, dict[str, Any]], name: str, error: str, hint: str
) -> None:
    assert not answers[name]["ok"]
    assert error in answers[name]["error"]
    assert hint in (answers[name]["hint"] or "")


def test_each_patch_of_that_release_fits_and_is_needed(asked: list[Any]) -> None:
    patches = asked[0]
    assert [name for name, fits, _ in patches if not fits] == []
    assert [name for name, _, needed in patches if not needed] == []
    assert "router without Transformer Engine's matrix product" in [name for name, *_ in patches]


SMALL = (
    "model.num_layers=2",
    "model.hidden_size=64",
    "model.ffn_hidden_size=128",
    "model.moe_ffn_hidden_size=32",
    "model.num_moe_experts=4",
    "model.moe_router_topk=2",
    "model.num_attention_heads=4",
    "model.num_query_groups=2",
    "model.kv_channels=16",
    "model.seq_length=32",
    "dataset.sequence_length=32",
    "tokenizer.tokenizer_type=NullTokenizer",
    "tokenizer.tokenizer_model=null",
    "tokenizer.vocab_size=255",
    "model.vocab_size=null",
    "model.make_vocab_size_divisible_by=16",
    "model.tensor_model_parallel_size=1",
    "model.pipeline_model_parallel_size=1",
    "model.expert_model_parallel_size=2",
    "model.sequence_parallel=false",
    "train.train_iters=6",
    "train.global_batch_size=4",
    "train.micro_batch_size=2",
    "train.eval_iters=0",
    "optimizer.lr=5e-3",
    "scheduler.lr_warmup_iters=1",
    "logger.log_interval=1",
    "checkpoint.save_interval=3",
)
"""Qwen3's mixture of experts, small: two ranks share the experts, each keeps half of the optimizer."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Six iterations, and once more the last three from the checkpoint after the third."""
    path = tmp_path_factory.mktemp("runs") / "run"
    run = make_run(path, {"bridge": "qwen3_30b_a3b_pretrain_config"}, SMALL)
    (path / "plan.json").write_text(json.dumps({"checkpoints": {"bytes": 10**18}}))
    train(run, python=old_bridge.PYTHON)
    shutil.rmtree(path / "checkpoints" / "iter_0000006")
    train(run, attempt="001", python=old_bridge.PYTHON)
    return run


def test_a_small_model_trains_on_cpu(trained: Run) -> None:
    assert [trained.end(rank)["outcome"] for rank in range(2)] == ["finished", "finished"]
    losses = trained.losses()
    assert list(losses) == [1, 2, 3, 4, 5, 6]
    assert losses[6] < losses[1]


def test_what_that_release_does_not_tell_is_on_record_all_the_same(trained: Run) -> None:
    saved = [line["iteration"] for line in trained.lines("timeline.jsonl") if line["event"] == "save"]
    assert saved[0] == 3
    assert saved[-1] == 6
    assert "model" in trained.events()
    # Before its first save there is only the plan to say how much it needs: here more than any disk has.
    assert [line["iteration"] for line in trained.lines("timeline.jsonl") if line["event"] == "no_space"] == [3]


def test_it_continues_exactly_from_its_checkpoint(trained: Run) -> None:
    first, second = trained.losses(), trained.losses("001")
    assert second == {iteration: first[iteration] for iteration in (4, 5, 6)}
    (loaded,) = [line for line in trained.lines("timeline.jsonl", "001") if line["event"] == "checkpoint_loaded"]
    assert loaded["iteration"] == 3


def test_a_run_is_planned_for_the_release_of_its_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from launcher.cli.main import main

    monkeypatch.chdir(tmp_path)
    common = ["--cluster", "local", "--gpus-per-node", "2", "--python", old_bridge.PYTHON]
    both = ("validation.eval_iters=1", "train.eval_iters=2")
    assert main(["plan", "bridge:qwen3_30b_a3b_pretrain_config", *common, *both]) == 2
    text = "validation.eval_iters is called train.eval_iters in Megatron Bridge 0.3.1, which train.eval_iters=2 sets"
    assert text in capsys.readouterr().err
    assert main(["plan", "bridge:vanilla_gpt_pretrain_config", *common]) == 2
    assert "Megatron Bridge 0.3.1 has no recipe 'vanilla_gpt_pretrain_config'" in capsys.readouterr().err
    assert main(["plan", "bridge:llama32_1b_pretrain_config", *common, "validation.eval_iters=1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert (plan["python"], plan["overrides"]) == (old_bridge.PYTHON, ["train.eval_iters=1"])
