r"""DeepSeek-V3 (671B, 256 experts), pretraining on 1024 GPUs (128 nodes of 8): Bridge's own recipe, offline.

    launcher submit recipes/deepseek_v3_pretrain.py --nodes 128 --gpus-per-node 8 --time 2:00:00
    launcher submit recipes/deepseek_v3_pretrain.py --nodes 128 --gpus-per-node 8 \
        model.moe_token_dispatcher_type=flex model.moe_flex_dispatcher_backend=deepep

Random weights and mock data. It needs Transformer Engine and a fast network between nodes.
"""

from megatron.bridge.recipes.deepseek.deepseek_v3 import deepseek_v3_pretrain_config
from megatron.bridge.training.config import ConfigContainer


def configure() -> ConfigContainer:
    """Configure TP=2, PP=16, EP=64; tokens reach the experts by all-to-all, which every image supports."""
    cfg = deepseek_v3_pretrain_config()
    cfg.model.moe_token_dispatcher_type = "alltoall"
    # Not every release of Transformer Engine has this fused kernel for this router.
    cfg.model.moe_permute_fusion = False
    # This kernel is part of APEX, which few images have.
    cfg.model.gradient_accumulation_fusion = False
    # Mock data with as many token ids as the model has, so that the output layer has its real size.
    cfg.tokenizer.vocab_size = cfg.model.vocab_size
    cfg.train.train_iters = 50
    cfg.train.global_batch_size = 1024
    cfg.scheduler.lr_warmup_iters = 5
    cfg.validation.eval_iters = 0
    cfg.logger.log_interval = 1
    cfg.logger.log_throughput = True
    return cfg
