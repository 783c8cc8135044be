"""The checks of points: each with one that passes and one that fails.

On 2,000 random points 16 of them agree with CloudAI's own function one by one (docs/how-to/cloudai.md).
"""

from typing import Any

import pytest

from launcher.cloudai.cmd_args import MegatronBridgeCmdArgs
from launcher.cloudai.constraints import CHECKS, BuiltRecipe, layout_chunks, violations

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
