"""Qwen3 8B, pretraining on 8 GPUs (1 node): Bridge's own recipe, random weights, mock data, offline.

launcher submit recipes/qwen3_8b_pretrain.py --nodes 1 --gpus-per-node 8
"""

from megatron.bridge.recipes.qwen.qwen3 import qwen3_8b_pretrain_config
from megatron.bridge.training.config import ConfigContainer


def configure() -> ConfigContainer:
    """Configure samples of 4096 tokens and TP=2, with which they fit into memory without recomputation."""
    cfg = qwen3_8b_pretrain_config()
    cfg.model.tensor_model_parallel_size = 2
    cfg.model.sequence_parallel = True
    # Mock data needs no text, so no tokenizer is fetched; the vocabulary keeps its real size.
    cfg.tokenizer.tokenizer_type = "NullTokenizer"
    cfg.tokenizer.tokenizer_model = None
    cfg.tokenizer.hf_tokenizer_kwargs = {}
    cfg.tokenizer.vocab_size = cfg.model.vocab_size
    # This kernel is part of APEX, which few images have.
    cfg.model.gradient_accumulation_fusion = False
    cfg.train.train_iters = 100
    cfg.train.global_batch_size = 32
    cfg.scheduler.lr_warmup_iters = 10
    cfg.validation.eval_iters = 0
    cfg.logger.log_interval = 1
    cfg.logger.log_throughput = True
    return cfg
