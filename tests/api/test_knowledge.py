"""A plan made without running the recipe decides what one made with a check decides. Cost: one check a recipe, 25 s."""

import dataclasses
from pathlib import Path

import pytest

from launcher._util.errors import RequestError
from launcher.api import check_config
from launcher.api.prepare_plan import PreparedPlan, prepare_plan
from launcher.config.request import Request
from launcher.discovery.recipe import RecipeFile, read_recipe
from launcher.planning.inputs import FromCheck, FromIndex
from launcher.planning.make import make_plan
from launcher.planning.model import Plan
from tests.backends.running import ROOT
from tests.support.warm import warm_python

GPUS = {"deepseek_v3_pretrain": 1024, "llama3_70b_pretrain": 64, "llama32_1b_pretrain": 4}
GPUS |= {"qwen3_moe_pretrain": 4, "vanilla_gpt_pretrain": 4}
CLUSTERS = ("dgx-gb200-nvl72", "aws-p5", "oci-h100")
CHANGES = ("train.train_iters=20", "model.expert_model_parallel_size=1", "env_vars.MINE=7")


def shipped() -> list[str]:
    """Return the shipped recipes that need no argument, by name."""
    recipes = {path.stem: read_recipe(str(path), ROOT) for path in sorted((ROOT / "recipes").glob("*.py"))}
    return [name for name, recipe in recipes.items() if isinstance(recipe, RecipeFile) and not recipe.required]


def prepared(name: str, cluster: str, *assignments: str, check: bool = False) -> PreparedPlan:
    """The plan of a job of 16 or more GPUs, made with the interpreter of the fork server where it is to be checked."""
    stated: dict[str, object] = {"recipe": str(ROOT / "recipes" / f"{name}.py"), "assignments": assignments}
    stated |= {"cluster": cluster, "runtime": "none"}
    per_node = 4 if cluster.startswith("dgx-gb200") else min(8, GPUS.get(name, 8))
    stated |= {"nodes": GPUS.get(name, 16) // per_node, "gpus_per_node": per_node}
    # The file system of a test may be too small for a checkpoint.
    stated |= {"assignments": (*assignments, "checkpoint.save=null")}
    more = {"check_config": True, "python": warm_python()} if check else {"check_config": False}
    return prepare_plan(Request.model_validate({**stated, "name": "same", **more}), "submit")


def decided(plan: Plan) -> dict[str, object]:
    """What a job gets from the plan; its identity and what was said of the check are left out."""
    values = plan.to_dict()
    own = {"run_id", "run_dir", "request", "unchecked", "guesses", "warnings", "memory", "checkpoints"}
    own |= {"python", "launcher_python", "token"}
    kept = {key: value for key, value in values.items() if key not in own}
    kept["directives"] = [one for one in plan.directives if one[0] not in ("comment", "output", "error")]
    kept["layout"] = dataclasses.replace(plan.layout, parallel=())
    return kept


@pytest.mark.megatron
@pytest.mark.parametrize("name", shipped())
def test_a_shipped_recipe_is_planned_alike_with_a_check_and_without(name: str) -> None:
    checked = prepared(name, CLUSTERS[0], *CHANGES[:1], check=True)
    assert isinstance(checked.inputs.knowledge, FromCheck)
    for cluster in CLUSTERS:
        known = prepared(name, cluster, *CHANGES[:1])
        assert isinstance(known.inputs.knowledge, FromIndex)
        same = dataclasses.replace(known.inputs, knowledge=checked.inputs.knowledge)
        assert decided(known.plan) == decided(make_plan(same)), cluster
        assert dict(known.plan.layout.parallel).items() <= dict(checked.plan.layout.parallel).items()


@pytest.mark.megatron
def test_overrides_are_planned_alike_with_a_check_and_without() -> None:
    known, checked = (prepared("qwen3_moe_pretrain", "aws-p5", *CHANGES, check=check) for check in (False, True))
    assert decided(known.plan) == decided(checked.plan)


def test_an_experts_group_gets_its_segment_without_the_stack() -> None:
    plan = prepared("qwen3_30b_a3b_pretrain", "dgx-gb200-nvl72").plan
    assert dict(plan.directives)["segment"] == "4"
    assert {one.name for one in plan.environment if one.origin == "the recipe's env_vars"} >= {"NCCL_NVLS_ENABLE"}


def test_a_value_that_an_argument_changes_is_unknown() -> None:
    plain, changed = (
        prepared("deepseek_v2_lite_pretrain", "aws-p5", *arguments).inputs.knowledge.values
        for arguments in ((), ("moe_token_dispatcher_type=deepep",))
    )
    assert plain["model.moe_token_dispatcher_type"] == "alltoall"
    assert plain["model.expert_model_parallel_size"] == changed["model.expert_model_parallel_size"] == 8
    assert changed.get("model.moe_token_dispatcher_type") != "alltoall"


MOE = "def configure():\n    return None\n"


def test_a_job_that_depends_on_a_guess_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_config, "stack_is_here", lambda _found: False)
    (tmp_path / "moe.py").write_text(MOE)
    asked = {"recipe": str(tmp_path / "moe.py"), "cluster": "dgx-gb200-nvl72", "runtime": "none", "nodes": 36}
    with pytest.raises(RequestError, match="TP, CP, EP counted as 1") as refused:
        prepare_plan(Request.model_validate(asked), "submit", check="if possible")
    assert "--no-check-config" in (refused.value.hint or "")
    shown = prepare_plan(Request.model_validate(asked), "plan", check="if unknown").plan
    assert any(text.startswith("NOT CHECKED") for text in shown.warnings)
    assert any("leaves its NVLink domain is not known" in line for line in shown.placement)
    # What is stated is not a guess.
    sizes = ("tensor", "context", "expert_model", "expert_tensor")
    keys = {"tensor": "tensor_model_parallel_size", "context": "context_parallel_size"}
    stated = tuple(f"model.{keys.get(one, f'{one}_parallel_size')}=1" for one in sizes)
    dispatcher = "model.moe_token_dispatcher_type=alltoall"
    plan = prepare_plan(
        Request.model_validate({**asked, "assignments": (*stated, dispatcher)}), "submit", check="if possible"
    ).plan
    assert plan.guesses == ()
    prepare_plan(Request.model_validate({**asked, "check_config": False}), "submit", check="if possible")


def test_the_batch_is_scaled_to_the_gpus_of_the_run() -> None:
    asked: dict[str, object] = {
        "recipe": "bridge:llama3_8b_pretrain_16gpu_h100_bf16_16k_config",
        "cluster": "slurm",
        "runtime": "none",
    }
    asked |= {"nodes": 8, "gpus_per_node": 8, "scale_batch": True, "check_config": False}
    plan = prepare_plan(Request.model_validate(asked), "submit").plan
    assert plan.overrides == ("train.global_batch_size=2048",)
    with pytest.raises(RequestError, match="stated as well"):
        prepare_plan(Request.model_validate({**asked, "assignments": ("train.global_batch_size=8",)}), "submit")
    with pytest.raises(RequestError, match="not known for how many GPUs"):
        prepare_plan(Request.model_validate({**asked, "recipe": str(ROOT / "recipes/llama3_8b_pretrain.py")}), "submit")
