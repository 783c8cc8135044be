"""Preflight: every row of the table is reported, a good configuration is not, and the sources of its facts."""

from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import LauncherError, RequestError
from launcher.discovery.training_files import SavedModel, TrainingFiles, check_training_files, saved_model
from launcher.planning.inputs import FromCheck
from launcher.planning.preflight import ConfigView, Finding, findings, flattened, require
from tests.planning.checked_configurations import resolved
from tests.planning.preflight_cases import TABLE, TP, Row
from tests.support.building import cluster, plan


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.says[:60])
def test_a_row_yields_its_finding_and_no_other(row: Row) -> None:
    found = findings(ConfigView(**{"values": row.values, "world_size": 8, "nodes": 1, "complete": False, **row.more}))
    assert len(found) == 1, [finding.text for finding in found]
    assert row.says in found[0].text
    assert row.hint in (found[0].hint or "")
    assert found[0].impossible == row.impossible


def test_table_is_long_and_each_row_has_its_own_words() -> None:
    assert len(TABLE) >= 40
    assert len({row.says for row in TABLE}) == len(TABLE)


def complete(**changes: Any) -> tuple[Finding, ...]:
    gpu = changes.pop("gpu", "H100")
    answer = resolved(8, **{"batch": 16, **changes})
    return findings(ConfigView(flattened(answer), world_size=8, nodes=1, complete=True, gpu=gpu))


def test_a_good_configuration_is_not_spoken_of() -> None:
    good: dict[str, Any] = {"checkpoint": {"save_interval": 50}}
    assert complete(**good) == ()
    assert complete(tensor_model_parallel_size=4, sequence_parallel=True, gpu="B200", **good) == ()
    assert complete(pipeline_model_parallel_size=2, batch=64, **good) == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_layers": 18, "pipeline_model_parallel_size": 4, "batch": 64}, "num_layers=18 cannot be divided"),
        ({"expert_model_parallel_size": 2}, "but the model has no experts"),
        ({"fp8": "hybrid", "hidden_size": 2056}, "model.hidden_size=2056 is not a multiple of 16"),
        (
            {"fp8": "hybrid", "ffn_hidden_size": 8208, "tensor_model_parallel_size": 2},
            "model.ffn_hidden_size=8208 / TP 2 is not a multiple of 16",
        ),
        ({"fp8": "hybrid", "seq_length": 4095, "micro": 1}, "4095 tokens of a micro-batch"),
    ],
)
def test_what_only_a_whole_configuration_shows_is_refused_then(changes: dict[str, Any], says: str) -> None:
    found = [finding for finding in complete(**changes) if finding.impossible]
    assert any(says in finding.text for finding in found), found


def test_layers_that_the_recipe_spreads_itself_are_its_own_matter() -> None:
    spread: dict[str, Any] = {
        "num_layers_in_first_pipeline_stage": 3,
        "num_layers": 18,
        "pipeline_model_parallel_size": 4,
    }
    assert not [one for one in complete(batch=64, **spread) if "num_layers" in one.text]


def test_nothing_is_known_of_the_precision_of_a_gpu_without_a_name_or_of_a_cpu() -> None:
    values = {"model.fp4": "e2m1"}
    assert findings(ConfigView(values, world_size=1, nodes=1, complete=False)) == ()
    assert findings(ConfigView(values, world_size=1, nodes=1, complete=False, gpu="H100", gpus=False)) == ()


def test_all_refusals_are_reported_at_once_with_what_to_do() -> None:
    view = ConfigView(
        {TP: 8, "model.num_attention_heads": 12, "model.num_query_groups": 3, "train.train_iters": 0},
        world_size=8,
        nodes=1,
        complete=False,
    )
    with pytest.raises(RequestError) as caught:
        require(findings(view))
    assert caught.value.message.count("\nand ") == 1
    assert caught.value.message.startswith("model.num_attention_heads=12")
    assert "TP 1, 2, 4 would do" in (caught.value.hint or "")


def test_plan_refuses_overrides_before_any_check() -> None:
    with pytest.raises(LauncherError, match=r"model\.num_moe_experts=6 cannot be divided"):
        plan(changes=("model.num_moe_experts=6", "model.expert_model_parallel_size=4"))
    with pytest.raises(LauncherError, match="needs Hopper or newer"):
        plan(profile=cluster(gpu="A100", gpus_per_node=4), changes=("mixed_precision=bf16_with_fp8_mixed",))


def test_plan_warns_of_what_is_suspicious() -> None:
    made = plan(changes=("train.train_iters=10", "scheduler.lr_warmup_iters=100"))
    assert any("the learning rate never reaches its maximum; set" in text for text in made.warnings)


def test_plan_takes_the_checkpoint_from_overrides_alone() -> None:
    # The recipe's own checkpoint directory is one of Bridge's, which the run never uses.
    answer = resolved(8, batch=16, checkpoint={"save": "/tmp/x", "save_interval": 50})
    made = plan(request={"nodes": 2}, known=FromCheck(answer))
    assert not [text for text in made.warnings if "/tmp/x" in text]


def test_newest_checkpoint_is_read(tmp_path: Path) -> None:
    assert saved_model(tmp_path) is None
    assert saved_model(tmp_path / "nothing") is None
    for step in (5, 20):
        (tmp_path / f"iter_{step:07d}").mkdir()
    text = "checkpoint:\n  save_optim: true\n  save: null\nmodel:\n  num_layers: 2\n  nested:\n    hidden_size: 1\n"
    text += "  hidden_size: 128\ntrain:\n  x: 3\n"
    (tmp_path / "iter_0000020" / "run_config.yaml").write_text(text)
    found = saved_model(tmp_path)
    values = {"checkpoint.save_optim": True, "model.num_layers": 2, "model.hidden_size": 128, "train.x": 3}
    assert found == SavedModel(str(tmp_path / "iter_0000020"), 20, values)
    assert saved_model(tmp_path / "iter_0000005") == SavedModel(str(tmp_path / "iter_0000005"), 5)


def test_files_are_looked_for(tmp_path: Path) -> None:
    for ending in (".bin", ".idx"):
        (tmp_path / f"good{ending}").touch()
    (tmp_path / "hub" / "models--me--known" / "snapshots").mkdir(parents=True)
    environ = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    good, bad = str(tmp_path / "good"), str(tmp_path / "bad")
    values = {
        "dataset.blend": [[good, bad], [0.5, 0.5]],
        "dataset.data_path": f"0.3 {good} 0.7 {bad}2",
        "dataset.path": "s3://bucket/x",
        "tokenizer.tokenizer_type": "HuggingFaceTokenizer",
        "tokenizer.tokenizer_model": "me/unknown",
    }
    found = check_training_files(values, environ)
    assert found == TrainingFiles(
        missing=(("dataset.blend", bad), ("dataset.data_path", f"{bad}2")),
        uncached=(("tokenizer.tokenizer_model", "me/unknown"),),
        offline=True,
        named=(
            *(("dataset.blend", path) for path in (f"{good}.bin", f"{good}.idx", bad)),
            *(("dataset.data_path", path) for path in (f"{good}.bin", f"{good}.idx", f"{bad}2")),
        ),
    )
    cached = check_training_files({**values, "tokenizer.tokenizer_model": "me/known"}, environ)
    assert cached.named[0] == ("tokenizer.tokenizer_model", f"{tmp_path}/hub/models--me--known/snapshots")
    assert cached.uncached == ()
    assert check_training_files({}, {"HOME": str(tmp_path)}) == TrainingFiles()


def test_what_names_a_tokenizer_is_a_path_where_it_looks_like_one(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    for text in ("./llama", "../llama", "/models/llama"):
        assert check_training_files({"hf_path": text}, environ).missing == (("hf_path", text),)
    assert check_training_files({"hf_path": "meta/llama"}, environ).uncached == (("hf_path", "meta/llama"),)
    # Without its type a tokenizer's name may be a file's or the hub's; a path is a path.
    assert check_training_files({"tokenizer.tokenizer_model": "meta/llama"}, environ) == TrainingFiles()
    assert check_training_files({"tokenizer.tokenizer_model": "/no/such.model"}, environ).missing


def test_a_dispatcher_that_the_image_has_is_not_spoken_of() -> None:
    values = {"model.moe_token_dispatcher_type": "flex", "model.moe_flex_dispatcher_backend": "deepep"}
    described = {"megatron-core": "0.19.2"}
    for more in (
        {"packages": described, "moe_backends": ("uccl",)},
        {"packages": {"torch": "2.11.0"}},
        {"packages": described, "gpus": False},
    ):
        assert findings(ConfigView(values, world_size=8, nodes=1, complete=False, **more)) == ()
    alone = {**values, "model.expert_model_parallel_size": 1}
    assert findings(ConfigView(alone, world_size=8, nodes=1, complete=False, packages=described)) == ()
