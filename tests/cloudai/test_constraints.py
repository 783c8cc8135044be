"""The checks of points: each with one that passes and one that fails, and 16 of them beside CloudAI's own function."""

import hashlib
import json
import random
from collections import Counter
from typing import Any

import pytest

from launcher.cloudai.cmd_args import MegatronBridgeCmdArgs
from launcher.cloudai.constraints import CHECKS, BuiltRecipe, layout_chunks, violations
from tests.cloudai.files import DATA

GRAPHS = {"cuda_graph_impl": "transformer_engine"}

POINTS: dict[int, list[tuple[dict[str, Any], dict[str, Any]]]] = {
    1: [({"tp": 4, "pp": 2}, {"tp": 3})],
    2: [
        ({"pp": 4, "num_layers": 8}, {"pp": 4, "num_layers": 6}),
        ({"pp": 2, "vp": 2, "num_layers": 8}, {"pp": 2, "vp": 2, "num_layers": 6}),
    ],
    3: [({"tp": 8, "num_gpus": 8}, {"tp": 8, "pp": 2, "num_gpus": 8})],
    4: [
        ({"mb": 2, "gb": 32}, {"mb": 3, "gb": 32}),
        (
            {"mb": 1, "gb": 32, "use_megatron_fsdp": True, "num_distributed_optimizer_instances": 2},
            {"mb": 1, "gb": 16, "use_megatron_fsdp": True, "num_distributed_optimizer_instances": 2},
        ),
    ],
    5: [({"use_megatron_fsdp": True}, {"use_megatron_fsdp": True, "cuda_graph_scope": "attn", **GRAPHS})],
    6: [
        ({"use_megatron_fsdp": True, "vp": 1}, {"use_megatron_fsdp": True, "cp": 2}),
        ({"use_megatron_fsdp": True, "pp": 1}, {"use_megatron_fsdp": True, "vp": 2}),
    ],
    7: [({"et": 1, "ep": 8}, {"et": 1, "ep": 6}), ({"ep": 6}, {"et": 2, "ep": 6})],
    8: [({"pp": 2, "pipeline_model_parallel_layout": "Et|tL"}, {"pp": 4, "pipeline_model_parallel_layout": "Et|tL"})],
    9: [
        (
            {"num_distributed_optimizer_instances": 2, "use_megatron_fsdp": True},
            {"num_distributed_optimizer_instances": 2},
        )
    ],
    10: [({"activation_offload_layers": 2}, {"pp": 2, "activation_offload_layers": 2})],
    11: [({"moe_a2a_overlap": True, "cuda_graph_impl": "none"}, {"moe_a2a_overlap": True, **GRAPHS})],
    12: [
        (
            {"activation_offload_layers": 2, **GRAPHS},
            {"activation_offload_layers": 2, "cuda_graph_scope": "attn", **GRAPHS},
        )
    ],
    13: [({"cuda_graph_impl": "local"}, {"cuda_graph_impl": "full"})],
    14: [
        (
            {"cuda_graph_impl": "local", "cuda_graph_scope": "[full_iteration]"},
            {"cuda_graph_impl": "local", "cuda_graph_scope": "attn"},
        ),
        ({**GRAPHS, "cuda_graph_scope": "attn,mamba"}, {**GRAPHS, "cuda_graph_scope": "attn,full_iteration"}),
        ({**GRAPHS, "cuda_graph_scope": "mlp"}, {**GRAPHS, "cuda_graph_scope": "bogus"}),
    ],
    15: [({"cuda_graph_scope": "attn,moe"}, {"cuda_graph_scope": "moe,moe_router"})],
    16: [({"cuda_graph_scope": "moe_router,moe_preprocess"}, {"cuda_graph_scope": "moe_preprocess"})],
    17: [
        (
            {"cuda_graph_scope": "attn", "recompute_modules": "mlp"},
            {"cuda_graph_scope": "attn", "recompute_modules": "core_attn"},
        ),
        (
            {"cuda_graph_scope": "attn,mlp", "recompute_modules": "layernorm"},
            {"cuda_graph_scope": "attn,mlp,moe", "recompute_modules": "layernorm"},
        ),
        ({"recompute_modules": "moe"}, {"cuda_graph_scope": "moe_router", "recompute_modules": "[moe]"}),
    ],
    18: [
        (
            {"model_recipe_name": "deepseek_v3", "pp": 4, "vp": 2},
            {"model_recipe_name": "deepseek_v3", "pp": 16, "vp": 2, "num_gpus": 32},
        )
    ],
}


def numbers(values: dict[str, Any]) -> list[int]:
    given = {"model_family_name": "m", "model_recipe_name": "r", "num_gpus": 16, **values}
    return [found.number for found in violations(MegatronBridgeCmdArgs.model_validate(given))]


def test_each_check_has_its_points() -> None:
    assert list(POINTS) == list(CHECKS) == list(range(1, 19))


@pytest.mark.parametrize(("number", "passes", "fails"), [(n, *pair) for n, pairs in POINTS.items() for pair in pairs])
def test_a_point_that_passes_and_one_that_fails(number: int, passes: dict[str, Any], fails: dict[str, Any]) -> None:
    assert numbers(passes) == []
    assert number in numbers(fails)


@pytest.mark.parametrize(
    ("values", "built", "found"),
    [
        ({"pp": 4}, BuiltRecipe(64), []),
        ({"pp": 4}, BuiltRecipe(62), [2]),
        # What the file does not state stays the recipe's.
        ({}, BuiltRecipe(62, pp=2), []),
        ({"vp": 4}, BuiltRecipe(62, pp=2), [2]),
        ({"pp": 4}, BuiltRecipe(64, pp=2, vp=3), [2]),
        ({"pp": 4, "vp": None}, BuiltRecipe(64, pp=2, vp=3), []),
        ({"pp": 4, "num_layers": 12}, BuiltRecipe(62), []),
        ({"pp": 4}, BuiltRecipe(62, is_uneven=True), []),
        # The recipe's own layout stays where none is stated.
        ({"pp": 4, "vp": 2}, BuiltRecipe(61, pp=4, vp=2, stages=8), []),
        ({"pp": 8, "vp": 2}, BuiltRecipe(61, pp=4, vp=2, stages=8), [8]),
        ({"pp": 2, "pipeline_model_parallel_layout": "Et|tL"}, BuiltRecipe(61, pp=4, vp=2, stages=8), [8, 8]),
        ({"pp": 2, "vp": 1, "pipeline_model_parallel_layout": "Et*30|(tt)*15,tL"}, BuiltRecipe(61), []),
        ({"pp": 2, "vp": 1, "pipeline_model_parallel_layout": "Et*30|(tt)*15,L"}, BuiltRecipe(61), [8]),
    ],
)
def test_layers_and_layout_are_those_of_the_built_recipe(
    values: dict[str, Any], built: BuiltRecipe, found: list[int]
) -> None:
    """Checks 2 and 8, which do nothing in CloudAI."""
    args = MegatronBridgeCmdArgs(model_family_name="m", model_recipe_name="r", num_gpus=16, **values)
    assert [one.number for one in violations(args, built)] == found


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("Et|tL", ["Et", "tL"]),
        ("Et*3|(tt|)*3,m|L", ["Ettt", "tt", "tt", "tt", "m", "L"]),
        ("E | t*2 | L", ["E", "tt", "L"]),
    ],
)
def test_the_stages_of_a_layout(text: str, chunks: list[str]) -> None:
    assert layout_chunks(text) == chunks


def test_what_a_checked_configuration_says_of_a_recipe() -> None:
    model = {
        "num_layers": 3,
        "pipeline_model_parallel_size": 2,
        "virtual_pipeline_model_parallel_size": None,
        "pipeline_layout": [[["embedding", "decoder"]], [["decoder", "decoder", "loss"]]],
    }
    assert BuiltRecipe.of(model) == BuiltRecipe(3, 2, None, 2)
    assert BuiltRecipe.of({"num_layers_in_first_pipeline_stage": 1}).is_uneven


def test_a_violation_says_the_numbers() -> None:
    args = MegatronBridgeCmdArgs(model_family_name="m", model_recipe_name="r", num_gpus=16, tp=3, pp=2)
    assert str(violations(args)[0]) == "check 1: num_gpus=16 cannot be divided by tp x pp x cp = 3 x 2 x 1"


SCOPES = ["", "attn", "mlp", "moe", "moe_router", "moe_preprocess", "full_iteration", "mamba", "attn,mlp,moe"]
SCOPES += ["[attn, moe_router]", "moe,moe_router", "moe_preprocess,moe_router", "'attn','mlp'", "bogus"]
MODULES = ["", "core_attn", "mla_up_proj", "mlp", "moe", "moe_act", "shared_experts", "layernorm"]
MODULES += ["core_attn,layernorm", "[mlp, layernorm]"]


def random_points(number: int) -> list[dict[str, Any]]:
    """Points of all fields that the checks look at, with values that pass and values that do not."""
    draw = random.Random(19)  # noqa: S311

    def maybe(value: Any, share: float = 0.6) -> Any:
        return value if draw.random() < share else None

    points = []
    for _ in range(number):
        # The order of the draws is part of the points.
        values = {
            "num_gpus": draw.choice([1, 2, 4, 6, 8, 16, 32, 64]),
            "tp": maybe(draw.choice([0, 1, 2, 4, 8])) if draw.random() < 0.9 else None,
            "pp": maybe(draw.choice([1, 2, 4, 8, 16, 3])),
            "cp": maybe(draw.choice([1, 2, 4])),
            "vp": maybe(draw.choice([1, 2, 4]), 0.4),
            "ep": maybe(draw.choice([0, 1, 2, 4, 8])),
            "et": maybe(draw.choice([1, 2]), 0.5),
            "mb": maybe(draw.choice([1, 2, 3, 4])),
            "gb": maybe(draw.choice([8, 16, 30, 64, 128, 512])),
            "use_megatron_fsdp": maybe(draw.random() < 0.5, 0.5),
            "num_distributed_optimizer_instances": maybe(draw.choice([1, 2, 4]), 0.3),
            "activation_offload_layers": maybe(draw.choice([0, 2]), 0.3),
            "moe_a2a_overlap": maybe(draw.random() < 0.5, 0.4),
            "cuda_graph_impl": maybe(draw.choice(["none", "local", "transformer_engine", "Null", "weird", " Local "])),
            "cuda_graph_scope": maybe(draw.choice(SCOPES)),
            "recompute_modules": maybe(draw.choice(MODULES)),
            "model_recipe_name": draw.choice(["qwen3_30b_a3b", "deepseek_v3", "DeepSeekV3_x"]),
        }
        points.append({name: value for name, value in values.items() if value is not None})
    return points


def test_2000_random_points_are_judged_as_by_cloudais_own_function() -> None:
    """What CloudAI's function said of them is in a file; its checks 2 and 8 do nothing."""
    head, *answers = (DATA / "constraint_checks.txt").read_text().splitlines()
    points = random_points(2000)
    assert hashlib.sha256(json.dumps(points, sort_keys=True).encode()).hexdigest() in head
    seen = Counter[int]()
    for point, answer in zip(points, answers, strict=True):
        args = MegatronBridgeCmdArgs(model_family_name="m", **point)
        found = sorted({each.number for each in violations(args)} - {2, 8})
        assert (",".join(map(str, found)) or "-") == answer, point
        seen.update(found)
    assert seen.keys() == set(range(1, 19)) - {2, 8}
    assert min(seen.values()) > 50, "each check fails on many of them"
    assert answers.count("-") == 271
