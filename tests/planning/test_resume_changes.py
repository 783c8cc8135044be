"""What a resume changes: every difference is listed, and those that make another training need permission."""

import dataclasses
import json
from typing import Any

import pytest

from launcher._util.errors import RequestError
from launcher.planning.model import Plan
from launcher.planning.resume_changes import find_changes, judge, require_permission
from tests.support.building import image, plan


def before(made: Plan) -> dict[str, Any]:
    """The plan as it is read back from plan.json."""
    found: dict[str, Any] = json.loads(made.to_json())
    return found


def changed(first: Plan, second: Plan) -> dict[str, tuple[str | None, str | None, bool]]:
    return {each.key: (each.before, each.after, each.needs_permission) for each in find_changes(before(first), second)}


def test_the_same_plan_changes_nothing() -> None:
    made = plan(request={"nodes": 2, "env": ("A=1",)}, changes=("train.global_batch_size=64", "rng.seed=1"))
    assert changed(made, made) == {}


def test_every_difference_is_listed_with_both_values() -> None:
    first = plan(request={"nodes": 2}, changes=("train.global_batch_size=64", "rng.seed=1", "model.num_layers=4"))
    second = plan(
        request={"nodes": 4, "env": ("A=1",)},
        changes=("++train.global_batch_size=128", "model.num_layers=4", "model.tensor_model_parallel_size=2"),
        inside=None,
    )
    second = dataclasses.replace(second, code_digest="new", bridge="0.6.2")
    first = dataclasses.replace(first, code_digest="old", bridge="0.3.1")
    assert changed(first, second) == {
        "nodes": ("2", "4", False),
        "env A": (None, "1", False),
        "train.global_batch_size": ("64", "128", True),
        "rng.seed": ("1", None, True),
        "model.tensor_model_parallel_size": (None, "2", False),
        "code": ("old", "new", True),
        "bridge": ("0.3.1", "0.6.2", True),
    }


def test_another_image_is_listed() -> None:
    profile: Any = {"request": {"nodes": 1, "runtime": "bwrap", "image": "nemo"}}
    first, second = plan(**profile, inside=image()), plan(**profile, inside=image(digest="sha256:" + "ef" * 32))
    assert list(changed(first, second)) == ["image"]


def test_a_plan_of_an_older_launcher_is_not_another_code() -> None:
    made = dataclasses.replace(plan(), code_digest="new", bridge="0.6.2")
    old = before(made)
    for key in ("code_digest", "bridge", "changes"):
        del old[key]
    assert find_changes(old, made) == ()


def test_permission_is_by_key_and_the_message_has_both_values() -> None:
    first = plan(changes=("train.global_batch_size=64", "rng.seed=1"))
    changes = find_changes(before(first), plan(changes=("train.global_batch_size=128", "rng.seed=2")))
    with pytest.raises(RequestError, match=r"train\.global_batch_size: 64 -> 128 \(the batch\)") as caught:
        require_permission(changes, ("rng.seed",), "/runs/x")
    assert "rng.seed" not in caught.value.message
    assert "--allow-change train.global_batch_size" in (caught.value.hint or "")
    require_permission(changes, ("rng.seed", "train.global_batch_size"), "/runs/x")


@pytest.mark.parametrize(
    ("key", "needs"),
    [
        ("train.global_batch_size", True),
        ("global_batch_size", True),
        ("train.rampup_batch_size", True),
        ("train.micro_batch_size", False),
        ("train.train_iters", False),
        ("train_iters", False),
        ("data", True),
        ("dataset.blend", True),
        ("tokenizer.tokenizer_model", True),
        ("rng.seed", True),
        ("seq_length", True),
        ("model.num_layers", True),
        ("model.hidden_dropout", True),
        ("model.moe_z_loss_coeff", True),
        ("optimizer.lr", True),
        ("scheduler.lr_decay_iters", True),
        ("mixed_precision", True),
        ("layers", True),
        *(
            (f"model.{name}_parallel_size", False)
            for name in ("tensor_model", "pipeline_model", "context", "expert_model")
        ),
        ("model.expert_tensor_parallel_size", False),
        ("model.recompute_granularity", False),
        ("model.bias_dropout_fusion", False),
        ("logger.log_interval", False),
        ("checkpoint.save_interval", False),
        ("ddp.overlap_grad_reduce", False),
        ("validation.eval_iters", False),
    ],
)
def test_the_table(key: str, needs: bool) -> None:
    assert judge(key)[0] is needs, judge(key)


def test_keys_of_a_program_of_the_users_own_are_only_listed() -> None:
    assert judge("toy.iters", own_program=True) == (False, "what it means to your program is not known")
