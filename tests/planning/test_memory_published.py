"""The memory estimate against runs that are known to fit a GPU and runs that are known not to.

What fits: recipes of NVIDIA's published results (NVIDIA-NeMo/Megatron-Bridge 067f987, performance-summary.md and its
archive), as Megatron Bridge 0.6.2 resolves them, with the releases whose tables have them. published_recipes.json has
what most of them share, and each one's changes.

What does not: public reports, shapes whose measured peak is more than a smaller GPU has, and five that ran out of
memory on one H100.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from launcher.planning.memory import GIB, estimate, warnings
from launcher.planning.memory.advice import GPU_GIB
from launcher.planning.preflight import ConfigView, findings, flattened
from tests.planning.checked_configurations import resolved

PUBLISHED = json.loads((Path(__file__).parent / "published_recipes.json").read_text())
RECIPES = sorted(PUBLISHED["recipes"])
A100_40GB, V100_32GB = 39.39, 31.74


def answer_of(name: str) -> dict[str, Any]:
    """What a check of this recipe answers."""
    found: dict[str, Any] = {}
    for key, value in {**PUBLISHED["base"], **PUBLISHED["recipes"][name]["changes"]}.items():
        *sections, last = key.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return {**found, "env_vars": {}}


def gpu_of(name: str) -> str:
    match = re.search(r"gpu_(g?[bh]\d+)_", name)
    assert match is not None
    return match[1].upper()


@cache
def share_of(name: str) -> float:
    """The estimate of a recipe as a share of its GPU's memory."""
    found = estimate(answer_of(name), PUBLISHED["recipes"][name]["world"])
    return found.needed / GIB / GPU_GIB[gpu_of(name)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_published_run_is_neither_refused_nor_warned_of(name: str) -> None:
    answer, world = answer_of(name), PUBLISHED["recipes"][name]["world"]
    gpu = gpu_of(name)
    assert warnings(estimate(answer, world), answer, gpu) == ()
    nodes = world // (4 if gpu.startswith("GB") else 8)
    view = ConfigView(flattened(answer), world_size=world, nodes=nodes, complete=True, gpu=gpu)
    assert [finding.text for finding in findings(view) if finding.impossible or "micro-batch" in finding.text] == []


def test_the_list_covers_models_gpus_and_precisions() -> None:
    assert len(RECIPES) >= 40
    assert {gpu_of(name) for name in RECIPES} == {"H100", "B200", "B300", "GB200", "GB300"}
    assert {name.rsplit("_", 2)[1] for name in RECIPES} == {"bf16", "fp8cs", "fp8mx", "nvfp4"}
    assert all(PUBLISHED["recipes"][name]["releases"] for name in RECIPES)


class TooLarge(NamedTuple):
    """A run that ran out of memory, or has to."""

    name: str
    source: str
    gpu_gib: float
    world: int
    changes: dict[str, Any]


NOT_SPREAD = {"use_distributed_optimizer": False}
ALONE: dict[str, Any] = {"ddp": NOT_SPREAD, "optimizer": NOT_SPREAD, "cross_entropy_loss_fusion": False}
LLAMA2_7B = {
    "num_layers": 32,
    "hidden_size": 4096,
    "ffn_hidden_size": 11008,
    "num_attention_heads": 32,
    "num_query_groups": 32,
    "kv_channels": 128,
    "padded_vocab_size": 32000,
    "share_embeddings_and_output_weights": False,
}
LLAMA3_8B = {**LLAMA2_7B, "ffn_hidden_size": 14336, "num_query_groups": 8, "padded_vocab_size": 128256}
LLAMA2_70B = {
    **LLAMA2_7B,
    "num_layers": 80,
    "hidden_size": 8192,
    "ffn_hidden_size": 28672,
    "num_attention_heads": 64,
    "num_query_groups": 8,
}


def gpt(layers: int, hidden: int, heads: int, vocabulary: int = 51200) -> dict[str, Any]:
    """A model of the GPT-3 family: plain MLP, LayerNorm, as many keys as queries, dropout."""
    return {
        "num_layers": layers,
        "hidden_size": hidden,
        "ffn_hidden_size": 4 * hidden,
        "num_attention_heads": heads,
        "num_query_groups": heads,
        "kv_channels": hidden // heads,
        "gated_linear_unit": False,
        "normalization": "LayerNorm",
        "padded_vocab_size": vocabulary,
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
        "attention_backend": "unfused",
    }


def paper(layers: int, hidden: int, heads: int, stages: int, chunks: int, batch: int, micro: int) -> dict[str, Any]:
    """A baseline of Korthikanti et al.: TP 8 without sequence parallelism and recomputation, sequence 2048."""
    return {
        **gpt(layers, hidden, heads),
        **ALONE,
        "seq_length": 2048,
        "tensor_model_parallel_size": 8,
        "pipeline_model_parallel_size": stages,
        "virtual_pipeline_model_parallel_size": chunks if chunks > 1 else None,
        "batch": batch,
        "micro": micro,
    }


KORTHIKANTI = "arXiv 2205.05198, table 3 and figure 1: the baselines need more than the 80 GB of an A100"
MEASURED = "docs/measurements/memory.md: a peak of {} GiB by torch's count"
RAN_OUT = "docs/measurements/memory.md: ran out of memory on one H100, by benchmarks/memory_estimate.py --too-large"
TOO_LARGE = (
    TooLarge(
        "Llama 2 7B, sequence 64",
        "https://github.com/NVIDIA/Megatron-LM/issues/606",
        A100_40GB,
        8,
        {**LLAMA2_7B, **ALONE, "seq_length": 64, "micro": 1},
    ),
    TooLarge(
        "Llama 3 8B without TP, sequence 8192",
        "https://github.com/NVIDIA/Megatron-LM/issues/818",
        GPU_GIB["A100"],
        8,
        {**LLAMA3_8B, **ALONE, "micro": 1},
    ),
    TooLarge(
        "Llama 2 70B on one H100",
        "https://github.com/NVIDIA/Megatron-LM/issues/783",
        GPU_GIB["H100"],
        1,
        {**LLAMA2_70B, "seq_length": 4096, "micro": 1},
    ),
    TooLarge(
        "GPT-2 774M, whole score matrices",
        "https://github.com/NVIDIA/Megatron-LM/issues/525",
        V100_32GB,
        8,
        {**gpt(36, 1280, 20, 50304), **ALONE, "seq_length": 1024, "micro": 8, "batch": 64},
    ),
    TooLarge(
        "1.5B of GPT-2 with plain data parallelism",
        "arXiv 1910.02054: PyTorch's DDP runs out of memory above 1.4B parameters on V100 of 32 GB",
        V100_32GB,
        16,
        {**gpt(48, 1600, 16, 50304), **ALONE, "seq_length": 1024, "micro": 1, "batch": 16},
    ),
    TooLarge("GPT 22B", KORTHIKANTI, GPU_GIB["A100"], 8, paper(48, 6144, 64, 1, 1, 4, 4)),
    TooLarge("GPT 175B", KORTHIKANTI, GPU_GIB["A100"], 64, paper(96, 12288, 96, 8, 3, 64, 1)),
    TooLarge("GPT 530B", KORTHIKANTI, GPU_GIB["A100"], 280, paper(105, 20480, 128, 35, 3, 280, 1)),
    TooLarge("GPT 1T", KORTHIKANTI, GPU_GIB["A100"], 512, paper(128, 25600, 160, 64, 1, 512, 1)),
    TooLarge(
        "MiniMax-M2 with TP 2 and EP 4 on 8 GPUs",
        "NVIDIA-NeMo/Megatron-Bridge:skills/nemo-mbridge-multi-node-slurm/SKILL.md@067f987d",
        GPU_GIB["H100"],
        8,
        {
            "num_layers": 62,
            "hidden_size": 3072,
            "num_attention_heads": 48,
            "num_query_groups": 8,
            "kv_channels": 128,
            "padded_vocab_size": 200064,
            "num_moe_experts": 256,
            "moe_ffn_hidden_size": 1536,
            "moe_router_topk": 8,
            "moe_grouped_gemm": True,
            "sequence_parallel": True,
            "tensor_model_parallel_size": 2,
            "expert_model_parallel_size": 4,
            "expert_tensor_parallel_size": 1,
            "seq_length": 4096,
            "micro": 1,
        },
    ),
    TooLarge("Llama 3.2 1B", MEASURED.format(47.3), A100_40GB, 1, {}),
    TooLarge(
        "Llama 3.2 1B, bf16 gradients", MEASURED.format(45.0), A100_40GB, 1, {"ddp": {"grad_reduce_in_fp32": False}}
    ),
    TooLarge(
        "Llama 3.2 1B, FP8",
        MEASURED.format(44.7),
        A100_40GB,
        1,
        {"fp8": "hybrid", "fp8_recipe": "tensorwise", "fp8_param": True},
    ),
    TooLarge("Llama 3.2 1B, DP 2", MEASURED.format(40.4), A100_40GB, 2, {"batch": 16}),
    TooLarge("Llama 3.2 1B, micro-batch 1", MEASURED.format(34.1), V100_32GB, 1, {"micro": 1}),
    TooLarge("Llama 3.2 1B with 32 layers", RAN_OUT, GPU_GIB["H100"], 1, {"num_layers": 32}),
    TooLarge(
        "Llama 3.2 1B, micro-batch 4 with an unfused loss",
        RAN_OUT,
        GPU_GIB["H100"],
        1,
        {"micro": 4, "cross_entropy_loss_fusion": False},
    ),
    TooLarge(
        "Llama 3.2 1B, micro-batch 5 in FP8",
        RAN_OUT,
        GPU_GIB["H100"],
        1,
        {"micro": 5, "batch": 10, "fp8": "hybrid", "fp8_recipe": "tensorwise", "fp8_param": False},
    ),
    TooLarge("Llama 3.2 1B, micro-batch 5", RAN_OUT, GPU_GIB["H100"], 1, {"micro": 5, "batch": 10}),
    TooLarge(
        "Llama 3.2 1B, micro-batch 14 with full recomputation",
        RAN_OUT,
        GPU_GIB["H100"],
        1,
        {
            "micro": 14,
            "batch": 14,
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        },
    ),
)


def excess(row: TooLarge) -> float:
    return estimate(resolved(row.world, **row.changes), row.world).needed / GIB / row.gpu_gib


@pytest.mark.parametrize("row", TOO_LARGE, ids=lambda row: row.name)
def test_what_does_not_fit_is_estimated_above_the_memory_of_the_gpu(row: TooLarge) -> None:
    assert excess(row) > 1


def test_the_two_lists_hold_the_estimate_within_ten_percent() -> None:
    """An estimate of a tenth more would warn of a run that fits, one of a tenth less pass one that does not."""
    assert len(TOO_LARGE) >= 20 and len({row.name for row in TOO_LARGE}) == len(TOO_LARGE)
    assert any(1.1 * share_of(name) > 1 for name in RECIPES)
    assert any(0.9 * excess(row) <= 1 for row in TOO_LARGE)
