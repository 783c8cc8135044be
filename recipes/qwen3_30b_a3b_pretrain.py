r"""Qwen3 30B-A3B (128 experts), pretraining on 16 GPUs (2 nodes of 8): Bridge's own recipe, random weights, offline.

    launcher submit recipes/qwen3_30b_a3b_pretrain.py --nodes 2 --gpus-per-node 8
    launcher submit recipes/qwen3_30b_a3b_pretrain.py --nodes 2 --gpus-per-node 8 \
        model.moe_token_dispatcher_type=flex model.moe_flex_dispatcher_backend=deepep

Mock data, and the schedule of a trial run.
"""

from megatron.bridge.recipes.qwen.qwen3_moe import qwen3_30b_a3b_pretrain_config
from megatron.bridge.training.config import ConfigContainer


def configure() -> ConfigContainer:
    """Configure eight experts on each of 16 GPUs (EP=16), reached by all-to-all, which every image supports."""
    cfg = qwen3_30b_a3b_pretrain_config()
    cfg.model.moe_token_dispatcher_type = "alltoall"
    # Not every release of Transformer Engine has these fused kernels for this router.
    cfg.model.moe_permute_fusion = False
    cfg.model.moe_router_fusion = False
    # This kernel is part of APEX, which few images have.
    cfg.model.gradient_accumulation_fusion = False
    # Mock data needs no text, so no tokenizer is fetched; the vocabulary keeps its real size.
    cfg.tokenizer.tokenizer_type = "NullTokenizer"
    cfg.tokenizer.tokenizer_model = None
    cfg.tokenizer.hf_tokenizer_kwargs = {}
    cfg.tokenizer.vocab_size = cfg.model.vocab_size
    cfg.train.train_iters = 100
    cfg.train.global_batch_size = 64
    cfg.scheduler.lr_warmup_iters = 10
    cfg.validation.eval_iters = 0
    cfg.logger.log_interval = 1
    cfg.logger.log_throughput = True
    return cfg
