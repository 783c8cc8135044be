"""Qwen3-MoE in miniature (8 experts), pretraining on 1 GPU, more, or none: two experts for each token, offline.

    launcher run recipes/qwen3_moe_pretrain.py model.expert_model_parallel_size=2

The architecture is that of Qwen3-30B-A3B (RMSNorm also on queries and keys, grouped-query attention, SwiGLU experts,
no shared expert, no biases) with small sizes; its own are 48 layers, width 2048, 32 heads of 128 channels in 4
groups, 128 experts of width 768, 8 of them for each token, rotary base 1e6
(https://huggingface.co/Qwen/Qwen3-30B-A3B, config.json).
"""

import torch.nn.functional as functional
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.bridge.training.config import ConfigContainer

# Data, schedule and optimizer are those of the small GPT beside this file.
from vanilla_gpt_pretrain import configure as vanilla_gpt


def configure() -> ConfigContainer:
    """Configure two layers of width 128 with eight experts, and 30 iterations."""
    cfg = vanilla_gpt()
    cfg.model = GPTModelProvider(
        num_layers=2,
        hidden_size=128,
        num_attention_heads=4,
        num_query_groups=2,
        kv_channels=32,
        qk_layernorm=True,
        normalization="RMSNorm",
        layernorm_epsilon=1e-6,
        gated_linear_unit=True,
        activation_func=functional.silu,
        add_bias_linear=False,
        position_embedding_type="rope",
        rotary_base=1_000_000,
        share_embeddings_and_output_weights=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        seq_length=cfg.dataset.seq_length,
        make_vocab_size_divisible_by=16,
        gradient_accumulation_fusion=False,
        # The experts.
        num_moe_experts=8,
        moe_router_topk=2,
        moe_ffn_hidden_size=96,
        moe_router_load_balancing_type="aux_loss",
        moe_aux_loss_coeff=1e-3,
        moe_token_dispatcher_type="alltoall",
        moe_grouped_gemm=True,
        moe_permute_fusion=False,
    )
    return cfg
