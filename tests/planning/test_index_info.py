"""Facts that a plan takes from the recipe index, and those that it does not."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from launcher._util.errors import LayoutError, RecipeError, RequestError
from launcher.config.request import Request
from launcher.discovery.recipe import BridgeRecipe
from launcher.discovery.recipe_index import IndexedRecipe, IndexMatch, load_index, lookup
from launcher.discovery.training_files import TrainingFiles
from launcher.planning import arguments, index_info, make, overrides
from launcher.planning.backend import BATCH
from launcher.planning.model import Plan
from tests.support import building

NAME = "llama3_8b_pretrain_16gpu_h100_bf16_16k_config"
KNOWN = lookup(NAME, "0.6.2")


def plan(*changes: str, known: IndexMatch = KNOWN, gpu: str | None = None, **request: Any) -> Plan:
    """A plan of a Bridge recipe on nodes of 8 GPUs."""
    overrides = building.overrides(*changes)
    return make.make_plan(
        make.PlanInputs(
            request=Request.model_validate({"recipe": f"bridge:{NAME}", "nodes": 2, **request}),
            cluster=building.cluster(gpus_per_node=8, gpu=gpu),
            host=building.host(),
            backend=BATCH,
            recipe=BridgeRecipe(NAME),
            arguments={},
            overrides=overrides,
            code=(),
            knowledge=index_info.knowledge_of(known, overrides, {}, {}, TrainingFiles()),
        )
    )


def environment(made: Plan) -> dict[str, str | None]:
    """Values by name of what the recipe sets."""
    return {one.name: one.value for one in made.environment if one.origin == "the recipe's env_vars"}


def test_sizes_and_environment_are_known_before_the_recipe_runs() -> None:
    made = plan()
    assert dict(made.layout.parallel) == {"tp": 4, "pp": 2, "cp": 2, "ep": 1, "etp": 4, "mbs": 1, "gbs": 512}
    assert environment(made)["NCCL_NVLS_ENABLE"] == "0"
    source = "the recipe's parallel sizes, batch sizes and env_vars: from the index of Megatron Bridge 0.6.2"
    assert source in made.unchecked
    assert "size of checkpoints: the recipe decides" in made.unchecked
    assert not any("tensor_model_parallel_size" in text for text in made.unchecked if "expert" not in text)
    assert any("TP 4" in line for line in made.placement)


def test_overrides_are_stronger() -> None:
    made = plan("model.tensor_model_parallel_size=2", "env_vars.NCCL_NVLS_ENABLE=1", "+env_vars.MINE=x")
    assert dict(made.layout.parallel)["tp"] == 2
    of_recipe = load_index("0.6.2").recipes[NAME].env or {}
    assert environment(made) == {**of_recipe, "NCCL_NVLS_ENABLE": "1", "MINE": "x"}
    # What only the job will know is not what the recipe had.
    made = plan("model.tensor_model_parallel_size=${oc.env:TP}", "env_vars.NCCL_NVLS_ENABLE=${oc.env:X}")
    assert "tp" not in dict(made.layout.parallel)
    assert "NCCL_NVLS_ENABLE" not in environment(made)
    assert environment(plan("env_vars={A: 1}")) == {}
    assert dict(plan("+model={num_layers: 2}").layout.parallel) == {"mbs": 1, "gbs": 512}


def test_what_cannot_be_divided_is_refused_with_where_the_sizes_come_from() -> None:
    with pytest.raises(LayoutError, match="cannot be divided by TP 4 x PP 2 x CP 2 = 16") as raised:
        plan(nodes=3)
    assert "from the index of Megatron Bridge 0.6.2" in (raised.value.hint or "")


def test_a_recipe_that_failed_for_the_index_is_warned_of() -> None:
    known = lookup("qwen3_next_80b_a3b_peft_config", "0.6.2")
    made = plan(known=known)
    assert any("PEFT is not currently supported" in text for text in made.warnings)
    assert environment(made) == {}
    assert made.layout.parallel == ()
    assert "the recipe's env_vars: the recipe decides" in made.unchecked


def test_names_by_release() -> None:
    for version in ("0.6.2", "0.6.2+local", "unknown", None):
        assert isinstance(lookup(NAME, version).recipe, IndexedRecipe)
        with pytest.raises(RecipeError, match=r"Megatron Bridge 0\.6\.2 has no recipe 'llama9_config'"):
            lookup("llama9_config", version)
    # Of another release nothing is known: no sizes are taken from this one, and no name is refused.
    assert lookup(NAME, "0.5.0") == IndexMatch("0.6.2", None)
    other = lookup("llama9_config", "0.5.0")
    assert other.recipe is None
    made = plan(known=other)
    assert any("the job uses release 0.5.0" in text for text in made.warnings)
    assert made.layout.parallel == ()
    assert "the recipe's env_vars" in made.unchecked


def test_a_recipe_on_other_gpus_keeps_its_batch_and_the_plan_says_so() -> None:
    stays = [text for text in plan(nodes=8).warnings if "stays" in text]
    assert stays == [
        f"{NAME} was written for 16 GPUs, and its global batch stays 512 on 64: --scale-batch makes it 2048"
    ]
    assert not [text for text in plan().warnings if "stays" in text]
    assert not [text for text in plan("train.global_batch_size=1024", nodes=8).warnings if "stays" in text]


def test_a_name_that_two_recipes_have_is_said() -> None:
    found = lookup("qwen3_235b_a22b_pretrain_256gpu_h100_bf16_config", "0.6.2")
    assert len(found.warnings) == 1
    assert "from megatron.bridge.perf_recipes." in found.warnings[0]
    assert lookup(NAME, "0.6.2").warnings == ()


def test_a_precision_that_the_gpu_lacks_is_refused_without_a_check() -> None:
    recipes = load_index("0.6.2").recipes.values()
    blackwell = [one for one in recipes if one.precision in ("fp8mx", "nvfp4") and not one.elsewhere]
    assert len(blackwell) > 150
    unfit = []
    for one in blackwell:
        with pytest.raises(RequestError) as refused:
            plan(known=IndexMatch("0.6.2", one), gpu="H100", nodes=(one.gpus or 8) // 8 or 1)
        if isinstance(refused.value, LayoutError):  # its own GPUs and sizes do not fit, or it was made for nodes of 4
            unfit.append(one.name)
        else:
            assert "needs Blackwell" in str(refused.value)
    assert len(unfit) < 10
    # What replaces the precision of the recipe is another question.
    plan("mixed_precision=bf16_mixed", known=lookup("llama3_8b_pretrain_8gpu_b200_fp8mx_config", "0.6.2"), gpu="H100")


def test_what_an_argument_changes_is_not_taken_from_the_index() -> None:
    known = lookup("qwen3_30b_a3b_pretrain_config", "0.6.2")

    def values(*arguments: str, match: IndexMatch = known) -> Mapping[str, Any]:
        given = dict.fromkeys(arguments, "x")
        return index_info.knowledge_of(match, (), given, {}, TrainingFiles()).values

    backend = "model.moe_flex_dispatcher_backend"
    assert values()[backend] == values("data")[backend] == "hybridep"
    assert backend not in values("enable_deepep")
    layers = lookup("gemma3_1b_pretrain_1gpu_h100_bf16_config", "0.6.2")
    assert "model.num_layers" in values(match=layers) and "model.num_layers" not in values("hf_path", match=layers)
    # What a parameter of Bridge's own function does is known only where it runs.
    assert known.recipe
    own = IndexMatch("0.6.2", dataclasses.replace(known.recipe, parameters=("size",)))
    found = index_info.knowledge_of(own, (), {"size": "2"}, {}, TrainingFiles())
    assert (found.values, found.env, found.recipe_is_known) == ({}, None, False)
    assert values("other", match=own)
    adapters = IndexMatch("0.6.2", dataclasses.replace(known.recipe, parameters=("peft_scheme",)))
    for scheme, same in (("dora", True), ("none", False)):
        found = index_info.knowledge_of(adapters, (), {"peft_scheme": scheme}, {}, TrainingFiles())
        assert bool(found.values) is same


def test_the_tensor_parallel_size_of_experts_is_that_of_the_rest_unless_something_says_so() -> None:
    known = lookup("llama3_70b_pretrain_64gpu_h100_bf16_config", "0.6.2")
    key = "model.expert_tensor_parallel_size"
    assert known.recipe and key not in known.recipe.values

    def found(*changes: str, match: IndexMatch = known) -> Any:
        return index_info.knowledge_of(match, overrides.parse_all(changes), {}, {}, TrainingFiles()).values.get(key)

    assert found() == known.recipe.values["model.tensor_model_parallel_size"] > 1
    assert found("model.tensor_model_parallel_size=2") == 2
    assert found("model.tensor_model_parallel_size=${oc.env:TP}") is None
    assert found(f"{key}=1") is None, "the override counts, not the index"
    open_ = dataclasses.replace(known.recipe, altered_by={key: ("size",)})
    assert found(match=IndexMatch("0.6.2", open_)) is None
    assert found(match=IndexMatch("0.6.2", dataclasses.replace(known.recipe, not_run="no file"))) is None


def test_the_dispatcher_that_a_keyword_chooses_is_known() -> None:
    recipe = BridgeRecipe("qwen3_30b_a3b_pretrain_config")
    schema = overrides.load_schema()
    found = arguments.check({"enable_deepep": "true"}, recipe, None, schema)
    assert found == {"model.moe_token_dispatcher_type": "flex", "model.moe_flex_dispatcher_backend": "deepep"}
    assert arguments.check({"enable_deepep": "false"}, recipe, None, schema) == {}
