"""What a check shows of a configuration, and that the estimate counts the parameters of the models it builds."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launcher.planning.memory import estimate
from launcher.planning.memory.dimensions import read_dimensions
from launcher.planning.memory.parameters import whole_model
from tests.support.limits import seconds
from tests.support.warm import warm_python

pytestmark = pytest.mark.megatron

ROOT = Path(__file__).resolve().parents[2]

# Builds Megatron's own model of each configuration, in one process on CPU, and counts.
PROGRAM = """
import json, logging, os, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
answers = []
from launcher.job import cpu
from launcher.contract.values import parse
from launcher.job.config import check, overrides, recipe
from pathlib import Path
cpu.enable()
import torch
os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
from megatron.core import parallel_state, tensor_parallel
parallel_state.initialize_model_parallel()
tensor_parallel.model_parallel_cuda_manual_seed(1)
for path, changes in json.load(sys.stdin):
    config = recipe.load({"path": path, "function": "configure"}, {}, Path.cwd())
    config = cpu.prepare(overrides.apply(config, [parse(text) for text in changes]))
    found = check.resolved(check.validate(config, 1).config)
    provider = config.model
    if provider.vocab_size is None:
        provider.vocab_size, provider.should_pad_vocab = config.tokenizer.vocab_size, True
    from megatron.core.process_groups_config import ProcessGroupCollection
    provider._pg_collection = ProcessGroupCollection.use_mpu_process_groups()
    provider.finalize()
    model = provider.provide(pre_process=True, post_process=True)
    count = sum(one.numel() for one in model.parameters())
    answers.append({"resolved": found, "parameters": count})
print()
print(json.dumps(answers))
"""

MODELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("recipes/vanilla_gpt_pretrain.py", ()),
    ("recipes/vanilla_gpt_pretrain.py", ("model.add_qkv_bias=true", "model.add_bias_linear=false")),
    ("recipes/vanilla_gpt_pretrain.py", ("model.share_embeddings_and_output_weights=false", "model.num_layers=3")),
    (
        "recipes/llama32_1b_pretrain.py",
        ("model.num_layers=2", "model.hidden_size=256", "model.ffn_hidden_size=512", "model.apply_rope_fusion=false"),
    ),
    ("recipes/qwen3_moe_pretrain.py", ()),
    (
        "recipes/qwen3_moe_pretrain.py",
        ("model.moe_layer_freq=2", "model.num_layers=4", "model.moe_shared_expert_intermediate_size=64"),
    ),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each model's check shows, and how many parameters it has when Megatron builds it."""
    done = subprocess.run(
        [warm_python(), "-c", PROGRAM, str(tmp_path_factory.mktemp("store") / "store")],
        input=json.dumps(MODELS),
        capture_output=True,
        text=True,
        timeout=seconds(280),
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.mark.parametrize("number", range(len(MODELS)), ids=[f"{Path(path).stem} {' '.join(c)}" for path, c in MODELS])
def test_parameters_are_those_of_megatrons_model(number: int, built: list[dict[str, Any]]) -> None:
    answer = built[number]
    assert estimate(answer["resolved"], 1).model_parameters == answer["parameters"]


def test_facts_are_plain_values_by_section(built: list[dict[str, Any]]) -> None:
    config = built[0]["resolved"]["config"]
    assert config["model"]["params_dtype"] in ("float32", "bfloat16")
    assert config["model"]["classes"][0].endswith("Provider")
    assert config["model"]["padded_vocab_size"] == 256
    assert config["optimizer"]["main_grads_dtype"] == "float32"
    assert config["train"]["micro_batch_size"] == built[0]["resolved"]["micro_batch_size"]
    assert config["tokenizer"]["tokenizer_type"] == "NullTokenizer"
    assert config["peft"] is None


def latent_attention(**changes: Any) -> dict[str, Any]:
    """A small model of DeepSeek-V2's kind, as a check would tell it."""
    from tests.planning.checked_configurations import resolved

    return resolved(
        **{
            "num_layers": 3,
            "hidden_size": 64,
            "ffn_hidden_size": 160,
            "num_attention_heads": 4,
            "num_query_groups": 4,
            "padded_vocab_size": 320,
            "share_embeddings_and_output_weights": False,
            "qk_layernorm": True,
            "multi_latent_attention": True,
            "q_lora_rank": None,
            "kv_lora_rank": 32,
            "qk_head_dim": 16,
            "qk_pos_emb_head_dim": 8,
            "v_head_dim": 16,
            "num_moe_experts": 8,
            "moe_ffn_hidden_size": 48,
            "moe_router_topk": 2,
            "moe_layer_freq": [0, 1, 1],
            "moe_shared_expert_intermediate_size": 96,
            **changes,
        }
    )


@pytest.mark.parametrize("rank", [None, 24])
def test_parameters_with_latent_attention_are_those_of_hugging_faces_model(rank: int | None) -> None:
    # Megatron builds this model only with Transformer Engine, so the other implementation is asked.
    import torch
    from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

    config = DeepseekV2Config(
        num_hidden_layers=3,
        hidden_size=64,
        intermediate_size=160,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=320,
        tie_word_embeddings=False,
        q_lora_rank=rank,
        kv_lora_rank=32,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        n_routed_experts=8,
        moe_intermediate_size=48,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        n_shared_experts=2,
    )
    with torch.device("meta"):
        model = DeepseekV2ForCausalLM(config)
    counted = sum(one.numel() for one in model.parameters())
    assert whole_model(read_dimensions(latent_attention(q_lora_rank=rank), 1)) == counted
