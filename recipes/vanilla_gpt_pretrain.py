r"""A GPT of any size, pretraining on 1 GPU, more, or none: mock data, no tokenizer files, fit for a laptop's CPU.

    launcher run recipes/vanilla_gpt_pretrain.py
    launcher run recipes/vanilla_gpt_pretrain.py model.num_layers=24 model.hidden_size=2048 \
        model.num_attention_heads=16 model.seq_length=4096 dataset.seq_length=4096 train.train_iters=500

A recipe is a Python file with a function `configure` that returns Megatron Bridge's ConfigContainer. Each of its fields
can be set on the command line as `section.field=value`.
"""

from megatron.bridge.recipes.gpt.vanilla_gpt import vanilla_gpt_pretrain_config
from megatron.bridge.training.config import ConfigContainer


def configure() -> ConfigContainer:
    """Configure two layers of width 128 and 30 iterations; the loss falls from 5.6 to below 2."""
    cfg = vanilla_gpt_pretrain_config()

    # The shape.
    cfg.model.num_layers = 2
    cfg.model.hidden_size = 128
    cfg.model.num_attention_heads = 4
    cfg.model.position_embedding_type = "rope"
    cfg.model.seq_length = cfg.dataset.seq_length = 64
    # This kernel is part of APEX, which few images have. Without it, gradients are added up in one more step, with the
    # same result.
    cfg.model.gradient_accumulation_fusion = False

    # The data: Megatron's mock data set counts upwards within a small vocabulary, so there is something to learn.
    cfg.tokenizer.tokenizer_type = "NullTokenizer"
    cfg.tokenizer.vocab_size = 255
    cfg.model.make_vocab_size_divisible_by = 16

    # The schedule. The samples of an iteration are spread over the data-parallel ranks in micro-batches.
    cfg.train.train_iters = 30
    cfg.train.global_batch_size = 16
    cfg.train.micro_batch_size = 1
    cfg.optimizer.lr = 5e-3
    cfg.optimizer.min_lr = 5e-4
    cfg.scheduler.lr_warmup_iters = 2
    # Each rank keeps and updates its share of the optimizer state.
    cfg.optimizer.use_distributed_optimizer = True
    cfg.ddp.use_distributed_optimizer = True

    # No evaluation: mock data has nothing held out.
    cfg.validation.eval_iters = 0
    cfg.logger.log_interval = 1
    return cfg
