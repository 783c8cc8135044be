"""Llama 3.2 1B, pretraining on 1 GPU or more: Bridge's own recipe, random weights, mock data, offline.

launcher run recipes/llama32_1b_pretrain.py --gpus-per-node 1 train.train_iters=50
"""

from megatron.bridge.recipes.llama.llama3 import llama32_1b_pretrain_config
from megatron.bridge.training.config import ConfigContainer


def configure() -> ConfigContainer:
    """Configure one GPU of 80 GB, which holds a micro-batch of two; more GPUs add data parallelism."""
    cfg = llama32_1b_pretrain_config()
    # Mock data with as many token ids as the model has, so that the output layer has its real size.
    cfg.tokenizer.vocab_size = cfg.model.vocab_size
    # This kernel is part of APEX, which few images have.
    cfg.model.gradient_accumulation_fusion = False
    cfg.train.train_iters = 100
    cfg.train.global_batch_size = 8
    cfg.train.micro_batch_size = 2
    cfg.scheduler.lr_warmup_iters = 10
    cfg.validation.eval_iters = 0
    cfg.logger.log_interval = 1
    cfg.logger.log_throughput = True
    return cfg
