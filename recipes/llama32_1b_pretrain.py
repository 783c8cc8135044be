"""Llama 3.2 1B from random weights on mock data: Bridge's own recipe, offline.

launcher run recipes/llama32_1b_pretrain.py --gpus-per-node 1 train.train_iters=50
"""

from megatron.bridge.recipes.llama.h100.llama3 import llama32_1b_pretrain_1gpu_h100_bf16_config
from megatron.bridge.training.config import ConfigContainer

from launcher.runtime.models import offline_hub


def configure() -> ConfigContainer:
    """One GPU of 80 GB holds a micro-batch of two; add GPUs for data parallelism."""
    with offline_hub(llama32_1b="meta-llama/Llama-3.2-1B"):
        cfg = llama32_1b_pretrain_1gpu_h100_bf16_config()
    # The vocabulary of the published tokenizer, so that the output layer has its real size.
    cfg.tokenizer.vocab_size = 128256
    # Its kernel is part of APEX, which few images have.
    cfg.model.gradient_accumulation_fusion = False
    cfg.train.train_iters = 100
    cfg.train.global_batch_size = 8
    cfg.train.micro_batch_size = 2
    cfg.scheduler.lr_warmup_iters = 10
    cfg.validation.eval_iters = 0
    cfg.logger.log_interval = 1
    cfg.logger.log_throughput = True
    return cfg
