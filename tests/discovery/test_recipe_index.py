"""Reading the index of Megatron Bridge's recipes."""

from pathlib import Path

import pytest

from launcher._util.errors import RecipeError
from launcher.discovery.recipe_index import installed_metadata, load_index, version_of, versions

INDEX = load_index("0.6.2")


def test_a_recipe_is_known_by_name_place_and_by_what_it_decides() -> None:
    one = INDEX.recipes["deepseek_v2_lite_pretrain_8gpu_h100_bf16_config"]
    assert (one.package, one.family, one.model) == ("recipes", "deepseek", "deepseek_v2_lite")
    assert (one.task, one.gpus, one.hardware, one.precision) == ("pretrain", 8, "h100", "bf16")
    assert one.values["model.expert_model_parallel_size"] == 8
    assert one.values["model.tensor_model_parallel_size"] == 1
    assert (one.values["train.global_batch_size"], one.values["train.micro_batch_size"]) == (512, 1)
    assert one.values["model.moe_token_dispatcher_type"] == "alltoall"
    assert "model.num_layers" not in one.values  # the published architecture says that, not the recipe
    assert one.env is not None
    assert one.env["TORCH_NCCL_HIGH_PRIORITY"] == "1"
    assert one.fetches == ("deepseek-ai/DeepSeek-V2-Lite",)


def test_a_dispatcher_that_a_recipe_switches_on_for_experts_is_known() -> None:
    for index, name in (
        (INDEX, "qwen3_30b_a3b_pretrain_8gpu_h100_bf16_config"),
        (load_index("0.3.1"), "qwen3_30b_a3b_pretrain_config"),
    ):
        values = index.recipes[name].values
        assert values["model.moe_token_dispatcher_type"] == "flex"
        assert values["model.moe_flex_dispatcher_backend"] == "deepep"
        assert "model.num_moe_experts" not in values


def test_an_older_name_is_the_same_recipe() -> None:
    old = INDEX.recipes["llama3_8b_pretrain_config"]
    own = INDEX.recipes["llama3_8b_pretrain_2gpu_h100_bf16_config"]
    assert old.alias_of == own.name
    assert (old.values, old.env, old.gpus) == (own.values, own.env, 2)


def test_where_both_packages_have_a_name_it_is_the_recipe_not_the_benchmark() -> None:
    assert INDEX.recipes["llama3_70b_sft_32gpu_h100_bf16_config"].package == "recipes"
    assert INDEX.recipes["llama3_8b_pretrain_8gpu_b200_nvfp4_config"].package == "perf_recipes"


def test_every_recipe_has_a_task_and_sizes_or_the_reason_why_not() -> None:
    for one in INDEX.recipes.values():
        assert one.task in ("pretrain", "sft", "peft"), one.name
        assert one.not_run or one.values["model.tensor_model_parallel_size"] >= 1, one.name
        assert (one.env is None) == (one.not_run is not None), one.name


def test_a_wrong_name_gets_near_misses_and_the_version() -> None:
    with pytest.raises(RecipeError) as raised:
        INDEX.require("llama3_8b_pretain_config")
    assert "Megatron Bridge 0.6.2 has no recipe 'llama3_8b_pretain_config'" in str(raised.value)
    assert "Did you mean llama3_8b_pretrain_config" in (raised.value.hint or "")
    with pytest.raises(RecipeError) as raised:
        INDEX.require("zzz_qqq")
    assert "launcher recipes zzz" in (raised.value.hint or "")


def test_a_recipe_that_bridge_does_not_name_gets_the_line_to_import_it() -> None:
    old = load_index("0.3.1")
    assert old.recipes["gpt3_175b_pretrain_config"].values["model.tensor_model_parallel_size"] == 4
    with pytest.raises(RecipeError, match=r"only in megatron\.bridge\.recipes\.gpt\.gpt3_175b") as raised:
        old.require("gpt3_175b_pretrain_config")
    assert "import gpt3_175b_pretrain_config as configure" in (raised.value.hint or "")
    assert not any(one.elsewhere for one in INDEX.recipes.values())


def test_an_older_release_has_no_environment_and_says_no_hardware() -> None:
    one = load_index("0.3.1").require("deepseek_v2_lite_pretrain_config")
    assert (one.env, one.gpus, one.hardware) == ({}, None, None)
    assert one.values["model.expert_model_parallel_size"] == 8


def test_releases() -> None:
    assert versions() == ["0.3.1", "0.6.2"]
    assert versions()[-1] == "0.6.2"
    assert load_index().version == "0.6.2"
    with pytest.raises(RecipeError, match=r"no index of Megatron Bridge 9\.9"):
        load_index("9.9")


def test_the_installed_release_is_read_from_its_metadata(tmp_path: Path) -> None:
    assert installed_metadata((str(tmp_path),)) is None
    (tmp_path / "megatron_bridge-0.3.1.dist-info").mkdir()
    found = installed_metadata(("/nowhere", str(tmp_path)))
    assert found is not None
    assert version_of(found) == "0.3.1"
