"""The rules of sizes, and that plan and job state each of them in the same words."""

from types import SimpleNamespace
from typing import Any

import pytest

from launcher.contract import parallel_sizes as rules
from launcher.contract.parallel_sizes import CP, EP, ETP, PP, TP, VP, Misfit
from launcher.job.config import sizes
from launcher.job.errors import UserError
from launcher.planning.preflight import sizes as preflight
from launcher.planning.preflight.findings import ConfigView, Finding


@pytest.mark.parametrize(
    ("fits", "misfit", "hint"),
    [
        (rules.ranks_by_model(16, 2, 2, 4), rules.ranks_by_model(16, 3, 1, 1), "the number of nodes"),
        (rules.ranks_by_experts(16, 1, 8, 2), rules.ranks_by_experts(16, 2, 8, 2), "the number of nodes"),
        (rules.hidden_by_heads(256, 8), rules.hidden_by_heads(255, 8), "model.kv_channels"),
        (rules.heads_by_groups(8, 4), rules.heads_by_groups(8, 3), "1, 2, 4, 8 would do"),
        (rules.heads_by_groups(8, 8), rules.heads_by_groups(8, 0), "1, 2, 4, 8 would do"),
        (rules.layers_by_stages(12, 2, 3, 8), rules.layers_by_stages(12, 4, 2, 8), "PP 1, 2 would do"),
        (rules.virtual_stages(1, 1), rules.virtual_stages(2, 1), f"{PP}=2"),
        (rules.experts_exist(1, None), rules.experts_exist(2, None), f"{EP}=1"),
        (rules.experts_by_ranks(8, 4, 8), rules.experts_by_ranks(6, 4, 8), "EP 1, 2 would do"),
        (rules.chosen_experts(2, 2), rules.chosen_experts(3, 2), "=2 or less"),
        (rules.sequence_by_context(66, 1), rules.sequence_by_context(66, 2), "64 or 68"),
        (rules.sequence_by_context(64, 2), rules.sequence_by_context(2, 2), "use 4"),
        (rules.batch(32, 2, 8), rules.batch(30, 2, 8), "16 or 32"),
        (rules.batch(16, 2, 8), rules.batch(6, 2, 8), "use a global batch size of 16"),
    ],
)
def test_rules(fits: Misfit | None, misfit: Misfit | None, hint: str) -> None:
    assert fits is None
    assert misfit is not None
    assert hint in misfit.hint


class GPTModelProvider(SimpleNamespace):
    """What the job looks at of a model; its class is known by its name."""


MODEL: dict[str, Any] = {
    TP: 1,
    PP: 1,
    CP: 1,
    EP: 1,
    ETP: None,
    VP: None,
    "model.num_layers": 12,
    "model.hidden_size": 256,
    "model.num_attention_heads": 8,
    "model.seq_length": 64,
    "model.num_query_groups": 4,
    "model.kv_channels": None,
    "model.multi_latent_attention": False,
    "model.num_moe_experts": None,
    "model.moe_router_topk": 2,
    "train.micro_batch_size": 2,
    "train.global_batch_size": 32,
    "train.train_iters": 10,
}
WRONG: list[dict[str, Any]] = [
    {TP: 3},
    {"model.num_moe_experts": 16, EP: 16, ETP: 1},
    {"model.hidden_size": 255},
    {"model.num_query_groups": 3},
    {PP: 8},
    {VP: 2},
    {EP: 2},
    {"model.num_moe_experts": 6, EP: 4},
    {"model.num_moe_experts": 2, "model.moe_router_topk": 3},
    {CP: 2, "model.seq_length": 66},
    {"train.global_batch_size": 30},
]


def config_of(values: dict[str, Any]) -> Any:
    """A configuration with these values, as the job has it."""
    parts: dict[str, dict[str, Any]] = {"model": {}, "train": {}}
    for key, value in values.items():
        section, name = key.split(".")
        parts[section][name] = value
    train, dataset = SimpleNamespace(**parts["train"]), SimpleNamespace()
    return SimpleNamespace(model=GPTModelProvider(**parts["model"]), train=train, dataset=dataset)


def test_what_fits_is_said_of_in_neither_half() -> None:
    sizes.check(config_of(MODEL), 8)
    assert not [each for each in findings(MODEL) if each.impossible]


@pytest.mark.parametrize("changes", WRONG, ids=str)
def test_plan_and_job_use_the_same_words(changes: dict[str, Any]) -> None:
    values = {**MODEL, **changes}
    with pytest.raises(UserError) as caught:
        sizes.check(config_of(values), 8)
    found = [(each.text, each.hint) for each in findings(values) if each.impossible]
    assert (caught.value.message, caught.value.hint) in found


def findings(values: dict[str, Any]) -> list[Finding]:
    view = ConfigView(values=values, world_size=8, nodes=1, complete=True)
    return [each for rule in preflight.RULES for each in rule(view)]
