"""The memory estimate, against measurements, parameter counts of other implementations, and itself."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.job.config import config_summary
from launcher.job.model import architectures
from launcher.planning import memory
from launcher.planning.inputs import FromCheck
from launcher.planning.memory import GIB, MemoryEstimate, StageMemory, estimate, pipeline
from launcher.planning.memory.dimensions import NotEstimatedError, read_dimensions
from tests.planning.checked_configurations import resolved
from tests.support.building import cluster, plan
from tests.support.quick import few

KINDS = ("weights", "gradients", "optimizer", "activations", "loss_or_backward", "communication", "step")
TP2 = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
PP2 = {"pipeline_model_parallel_size": 2}
FULL = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
MIXTURE = {
    "num_moe_experts": 8,
    "moe_ffn_hidden_size": 1024,
    "moe_router_topk": 2,
    "sequence_parallel": True,
    "moe_grouped_gemm": True,
}


def of(world_size: int = 1, **changes: Any) -> MemoryEstimate:
    return estimate(resolved(world_size, **changes), world_size)


SELECTIVE = {"recompute_granularity": "selective", "recompute_modules": ["core_attn", "mlp"]}
BLOCK = {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 8}
TWO = {"batch": 16}
OWN_TYPES = "use_precision_aware_optimizer_no_fp8_or_ds_fp8"
THREE_LAYERS_OF_QWEN3_30B_A3B = {
    "num_layers": 3,
    "num_query_groups": 4,
    "kv_channels": 128,
    "ffn_hidden_size": 6144,
    "qk_layernorm": True,
    "num_moe_experts": 128,
    "moe_ffn_hidden_size": 768,
    "moe_router_topk": 8,
    "moe_grouped_gemm": True,
    "moe_token_dispatcher_type": "alltoall",
    "share_embeddings_and_output_weights": False,
    "padded_vocab_size": 151936,
    "seq_length": 4096,
    "micro": 1,
    "batch": 2,
    "ddp": {"grad_reduce_in_fp32": False},
    "optimizer": {"use_precision_aware_optimizer": True, OWN_TYPES: False},
}


@pytest.mark.parametrize(
    ("world_size", "changes", "measured_gib"),
    [
        # Peaks by torch's count on H200 GPUs (docs/measurements/memory.md): Llama 3.2 1B, sequence 8192, micro-batch 2.
        pytest.param(1, {}, 47.3, id="1 GPU"),
        pytest.param(1, {"micro": 1}, 34.1, id="micro-batch 1"),
        pytest.param(1, FULL, 29.8, id="full recomputation"),
        pytest.param(1, BLOCK, 38.5, id="block recomputation"),
        pytest.param(1, SELECTIVE, 35.5, id="selective recomputation"),
        pytest.param(1, {"cross_entropy_loss_fusion": False, "micro": 1}, 36.0, id="unfused loss"),
        pytest.param(1, {"ddp": {"grad_reduce_in_fp32": False}}, 45.0, id="bf16 gradients"),
        pytest.param(2, TWO, 40.4, id="DP 2"),
        pytest.param(2, {**TP2, **TWO}, 23.8, id="TP 2 with SP"),
        pytest.param(2, {"tensor_model_parallel_size": 2, **TWO}, 25.8, id="TP 2"),
        pytest.param(2, {**TP2, **FULL, **TWO}, 15.0, id="TP 2 with SP, full recomputation"),
        pytest.param(2, {**PP2, **TWO}, 31.7, id="PP 2"),
        pytest.param(2, {**PP2, "virtual_pipeline_model_parallel_size": 2, **TWO}, 36.5, id="PP 2, VP 2"),
        pytest.param(2, {**PP2, **FULL, **TWO}, 21.2, id="PP 2, full recomputation"),
        pytest.param(2, {"context_parallel_size": 2, **TWO}, 27.1, id="CP 2"),
        pytest.param(1, THREE_LAYERS_OF_QWEN3_30B_A3B, 46.6, id="mixture of experts"),
        pytest.param(1, {"fp8": "hybrid", "fp8_recipe": "tensorwise", "fp8_param": True}, 44.7, id="FP8"),
    ],
)
def test_the_estimate_is_near_what_was_measured(world_size: int, changes: dict[str, Any], measured_gib: float) -> None:
    assert of(world_size, **changes).worst.total / GIB == pytest.approx(measured_gib, rel=0.015)


def test_states_are_eighteen_bytes_a_parameter_and_six_with_the_rest_spread() -> None:
    # Megatron-LM's theoretical_memory_usage.py: 18, or 6 + 12 / DP.
    alone, four = of(1).worst, of(4, batch=16).worst
    assert alone.weights + alone.gradients + alone.optimizer == 18 * alone.parameters
    assert four.weights + four.gradients + four.optimizer == 9 * four.parameters


@pytest.mark.parametrize(
    ("changes", "bytes_each"),
    [
        ({}, (2, 4, 12)),
        ({"ddp": {"grad_reduce_in_fp32": False}}, (2, 2, 12)),
        ({"bf16": False}, (4, 4, 8)),
        ({"optimizer": {"use_precision_aware_optimizer": True}}, (2, 4, 10)),
        (
            {
                "optimizer": {
                    "use_precision_aware_optimizer": True,
                    "exp_avg_dtype": "bfloat16",
                    "exp_avg_sq_dtype": "bfloat16",
                    "store_param_remainders": False,
                }
            },
            (2, 4, 8),
        ),
        ({"optimizer": {"use_precision_aware_optimizer": True, OWN_TYPES: False}}, (2, 4, 12)),
        ({"optimizer": {"optimizer": "sgd"}}, (2, 4, 8)),
        ({"optimizer": {"optimizer_cpu_offload": True, "optimizer_offload_fraction": 0.5}}, (2, 4, 6)),
        ({"fp8": "hybrid"}, (4, 4, 12)),
        ({"fp8": "hybrid", "fp8_param": True}, (2, 4, 12)),
        ({"peft": {"dim": 8}}, (2, 0, 0)),
    ],
)
def test_bytes_of_a_parameter(changes: dict[str, Any], bytes_each: tuple[int, int, int]) -> None:
    found = of(1, **changes).worst
    assert (found.weights, found.gradients, found.optimizer) == tuple(one * found.parameters for one in bytes_each)


def test_without_the_distributed_optimizer_nothing_is_spread() -> None:
    off = {"use_distributed_optimizer": False}
    assert of(8, batch=16, ddp=off, optimizer=off).worst.optimizer == of(1).worst.optimizer


def test_context_parallel_ranks_share_the_optimizer_too() -> None:
    assert of(2, context_parallel_size=2).worst.optimizer == of(2, batch=16).worst.optimizer


def test_experts_have_data_parallel_ranks_of_their_own() -> None:
    spread = {**MIXTURE, "expert_model_parallel_size": 4, "expert_tensor_parallel_size": 1}
    whole, four = of(1, **MIXTURE).worst, of(4, batch=16, **spread).worst
    experts = 8 * 3 * 2048 * 1024 * 16
    assert whole.parameters - four.parameters == experts * 3 // 4
    # A quarter of the experts on each of four ranks: no other rank has them, so their state is not spread.
    dense = whole.parameters - experts
    assert four.optimizer == 12 * (dense // 4) + 12 * (experts // 4)


def test_a_pipeline_holds_fewer_micro_batches_the_further_back() -> None:
    found = of(4, pipeline_model_parallel_size=4, batch=64)
    layers = [stage.activations for stage in found.stages[:3]]
    assert [round(one / layers[2]) for one in layers] == [2, 2, 1]
    assert layers[0] * 3 == layers[1] * 4 == layers[2] * 6


@pytest.mark.parametrize(("vp", "batch", "held"), [(1, 64, [4, 3, 2, 1]), (1, 4, [2, 2, 2, 1]), (2, 64, [11, 9, 7, 5])])
def test_chunks_that_a_stage_holds(vp: int, batch: int, held: list[int]) -> None:
    answer = resolved(
        4,
        batch,
        pipeline_model_parallel_size=4,
        virtual_pipeline_model_parallel_size=vp if vp > 1 else None,
    )
    sizes, model = read_dimensions(answer, 4), answer["config"]["model"]
    assert [pipeline.chunks_in_flight(sizes, stage, model) for stage in pipeline.stages(sizes, model)] == held


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({}, [4, 4, 4, 4]),
        ({"num_layers_in_first_pipeline_stage": 1}, [1, 5, 5, 5]),
        ({"num_layers_in_first_pipeline_stage": 2, "num_layers_in_last_pipeline_stage": 2}, [2, 6, 6, 2]),
        (
            {
                "num_layers": 14,
                "account_for_embedding_in_pipeline_split": True,
                "account_for_loss_in_pipeline_split": True,
            },
            [3, 4, 4, 3],
        ),
        (
            {
                "num_layers": 4,
                "pipeline_layout": [
                    [["embedding", "decoder"]],
                    [["decoder", "decoder"]],
                    [["decoder"]],
                    [["loss"]],
                ],
            },
            [1, 2, 1, 0],
        ),
    ],
)
def test_layers_of_a_stage(changes: dict[str, Any], layers: list[int]) -> None:
    found = of(4, pipeline_model_parallel_size=4, batch=64, **changes)
    assert [stage.layers for stage in found.stages] == layers


def test_recomputation_keeps_less_the_more_it_covers() -> None:
    selective = {"recompute_granularity": "selective", "recompute_modules": ["core_attn", "mlp"]}
    core = {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}
    block = {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 8}
    kept = [of(1, **changes).worst.activations for changes in ({}, core, selective, FULL)]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == 4
    assert kept[0] > of(1, **block).worst.activations > kept[3]
    # Eight layers' inputs at 2 bytes, and eight layers whole.
    tokens, hidden = 2 * 8192, 2048
    inputs, ending = 2 * tokens * hidden, 2 * 2 * tokens * hidden
    layer = (kept[0] - ending) // 16
    assert of(1, **block).worst.activations == 8 * inputs + 8 * layer + ending
    assert kept[3] == 16 * inputs + ending


def test_scores_in_memory_are_counted_where_attention_is_not_fused() -> None:
    more = of(1, attention_backend="unfused").worst.activations - of(1).worst.activations
    scores = 2 * 32 * 8192 * 8192 * 2 * 16
    assert more == scores - 4 * 32 * 8192 * 2 * 16


sizes_of_runs = st.fixed_dictionaries(
    {
        "tensor_model_parallel_size": st.sampled_from([1, 2, 4, 8]),
        "pipeline_model_parallel_size": st.sampled_from([1, 2, 4]),
        "context_parallel_size": st.sampled_from([1, 2]),
        "micro": st.sampled_from([1, 2, 4]),
        "mixed": st.booleans(),
        "mtp_num_layers": st.sampled_from([None, 1]),
        "share_embeddings_and_output_weights": st.booleans(),
        "recompute_granularity": st.sampled_from([None, "selective", "full"]),
    }
)


@settings(max_examples=few(60), deadline=None)
@given(sizes_of_runs)
def test_parts_add_up_and_more_parallelism_never_takes_more(drawn: dict[str, Any]) -> None:
    drawn = dict(drawn)
    mixture = MIXTURE if drawn.pop("mixed") else {}
    drawn |= {"recompute_method": "uniform", "recompute_num_layers": 1, "sequence_parallel": True}
    changes = {**mixture, **drawn, "batch": 512}
    found = of(128, **changes)
    for stage in found.stages:
        backward = stage.activations + stage.loss_or_backward
        always = stage.weights + stage.gradients + stage.optimizer + stage.communication
        assert stage.total == max(always + backward, always + stage.step)
        assert all(getattr(stage, kind) >= 0 for kind in KINDS)
    assert sum(stage.layers for stage in found.stages) == 16
    more = of(128, **{**changes, "tensor_model_parallel_size": 2 * drawn["tensor_model_parallel_size"]})
    assert all(after.weights <= before.weights for before, after in zip(found.stages, more.stages, strict=True))
    recomputed = {name: of(128, **{**changes, "recompute_granularity": name}) for name in (None, "selective", "full")}
    kept = [recomputed[name].worst.activations for name in (None, "selective", "full")]
    assert kept == sorted(kept, reverse=True)


def test_stages_together_hold_the_model() -> None:
    for tied in (True, False):
        found = of(4, pipeline_model_parallel_size=4, batch=64, share_embeddings_and_output_weights=tied)
        copy = 128256 * 2048 if tied else 0
        assert sum(stage.parameters for stage in found.stages) == found.model_parameters + copy


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"classes": ["MambaModelProvider", "TransformerConfig"]}, "MambaModelProvider is not a GPT"),
        ({"padded_vocab_size": None}, "when the tokenizer is loaded"),
        ({"moe_latent_size": 128}, "model.moe_latent_size=128"),
        ({"experimental_attention_variant": "dsa"}, "model.experimental_attention_variant=dsa"),
        ({"num_layers": None}, "model.num_layers is not set"),
    ],
)
def test_what_no_formula_fits_is_said_and_not_guessed(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotEstimatedError, match=reason):
        of(1, **changes)
    assert memory.try_estimate(resolved(1, **changes), 1)[0] is None


def test_an_answer_without_sizes_is_not_estimated() -> None:
    assert memory.try_estimate({}, 1) == (None, "the check did not report the model's sizes")


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"batch": 8, "seq_length": 32768}, "train.micro_batch_size=1"),
        ({"batch": 8, "micro": 1, "seq_length": 65536}, "model.recompute_granularity=full"),
        (
            {"num_layers": 160, "ddp": {"use_distributed_optimizer": False}, **FULL},
            "ddp.use_distributed_optimizer=true",
        ),
        ({"num_layers": 160, **MIXTURE, **FULL}, "a larger model.expert_model_parallel_size"),
        ({"seq_length": 131072, "micro": 1, "batch": 8, **FULL}, "a larger model.context_parallel_size"),
        ({"seq_length": 65536, **TP2, "sequence_parallel": False}, "model.sequence_parallel=true"),
    ],
)
def test_what_does_not_fit_is_warned_of_with_the_term_to_change(changes: dict[str, Any], remedy: str) -> None:
    world_size = changes.get("tensor_model_parallel_size", 1)
    answer = resolved(world_size, **changes)
    (text,) = memory.warnings(estimate(answer, world_size), answer, "H100")
    assert remedy in text
    assert "does not fit the 79.2 GiB of a GPU of type H100" in text


def test_what_fits_or_cannot_be_judged_is_not_warned_of() -> None:
    answer = resolved(1)
    found = estimate(answer, 1)
    assert memory.warnings(found, answer, "H200") == ()
    assert memory.warnings(found, answer, None) == ()
    assert memory.warnings(found, answer, "XPU") == ()


def test_plan_shows_the_fullest_stage_and_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = resolved(8, batch=64, pipeline_model_parallel_size=2)
    made = plan(profile=cluster(gpus_per_node=8, gpu="H200"), known=FromCheck(answer))
    assert made.memory is not None
    assert made.memory == made.to_dict()["memory"]
    assert [stage["layers"] for stage in made.memory["stages"]] == [8, 8]
    first, second, third = memory.lines(made.memory)
    assert first.endswith("with CUDA and NCCL")
    assert second.startswith("stage 0 of 2, the largest: weights 1.4, gradients 2.8")
    assert third.startswith("all stages: ")
    assert "memory: the recipe decides" not in made.unchecked


def test_plan_guesses_nothing_without_a_check() -> None:
    made = plan()
    assert made.memory is None
    assert "memory: the recipe decides" in made.unchecked


def test_stage_memory_is_a_value() -> None:
    assert StageMemory(0, 1, 1, 2, 4, 12, 5, 6, 7).total == 36


def published_vocabulary(tokenizer_model: str, **model: Any) -> int | None:
    config = SimpleNamespace(model=SimpleNamespace(**model), tokenizer=SimpleNamespace(tokenizer_model=tokenizer_model))
    return config_summary._published_vocabulary(config)


def test_every_architecture_that_ships_has_a_vocabulary() -> None:
    """Recipes of the library name a tokenizer and no size: that of the published model is taken then."""
    names = [name for path in architectures.files() for name in architectures.hub_names(path)]
    assert len(names) >= 15
    assert [name for name in names if not published_vocabulary(name)] == []
    qwen3 = [name for name in names if "Qwen3-" in name]
    assert qwen3 and {published_vocabulary(name) for name in qwen3} == {151936}
    assert published_vocabulary("Qwen/Qwen3-8B", vocab_size=1000) == 1000
    assert published_vocabulary("someone/elses-model") is None


def test_a_run_whose_tokenizer_decides_is_estimated_with_the_published_vocabulary() -> None:
    published = resolved(1, padded_vocab_size=None)
    with pytest.raises(NotEstimatedError, match="only when the tokenizer is loaded"):
        estimate(published, 1)
    published["config"]["model"]["published_vocab_size"] = 128256
    found = estimate(published, 1)
    assert found.worst == of(1).worst
    assert any("may be a little smaller" in note for note in found.notes)
