"""Llama 3 70B, pretraining on 32 GPUs (4 nodes of 8): Bridge's own recipe, random weights, mock data, offline.

launcher submit recipes/llama3_70b_pretrain.py --nodes 4 --gpus-per-node 8 --time 1:00:00
"""

from megatron.bridge.recipes.llama.llama3 import llama3_70b_pretrain_config
from megatron.bridge.training.config import ConfigContainer


def configure() -> ConfigContainer:
    """Configure TP=4, CP=2, PP=4 with five chunks of four layers on each stage; more nodes add data parallelism."""
    cfg = llama3_70b_pretrain_config()
    # Mock data with as many token ids as the model has, so that the output layer has its real size.
    cfg.tokenizer.vocab_size = cfg.model.vocab_size
    # This kernel is part of APEX, which few images have.
    cfg.model.gradient_accumulation_fusion = False
    # The overlap is tuned for the GPUs and the sequence length of Bridge's recipe, and its buffers may fail to start.
    cfg.comm_overlap.tp_comm_overlap = False
    cfg.train.train_iters = 50
    cfg.train.global_batch_size = 64
    cfg.scheduler.lr_warmup_iters = 5
    cfg.validation.eval_iters = 0
    cfg.logger.log_interval = 1
    cfg.logger.log_throughput = True
    return cfg
