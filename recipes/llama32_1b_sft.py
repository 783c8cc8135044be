"""Llama 3.2 1B, supervised fine-tuning (SFT) on 1 GPU or more: from Hugging Face weights, on your own JSONL files.

    launcher run recipes/llama32_1b_sft.py --gpus-per-node 1 hf_path=/models/Llama-3.2-1B data=/data/answers

`data` is a directory with training.jsonl, an {"input": ..., "output": ...} in each line; the loss counts only outputs.
"""

from pathlib import Path

from megatron.bridge.data.builders import GPTSFTDatasetConfig, PromptCompletionSFTPreprocessingConfig
from megatron.bridge.recipes.llama.llama3 import llama32_1b_sft_config
from megatron.bridge.training.config import ConfigContainer

from launcher.job.model.hub import override_model


def configure(hf_path: Path, data: Path) -> ConfigContainer:
    """Start from the weights in `hf_path`, a Hugging Face model's directory with its tokenizer."""
    with override_model(str(hf_path)):
        cfg = llama32_1b_sft_config()
    set_source(cfg, hf_path, data)
    set_trial(cfg)
    return cfg


def set_source(cfg: ConfigContainer, hf_path: Path, data: Path) -> None:
    """Set weights and tokenizer to `hf_path`, samples to `data`."""
    cfg.checkpoint.pretrained_checkpoint = str(hf_path)
    cfg.tokenizer.tokenizer_model = str(hf_path)
    cfg.tokenizer.hf_tokenizer_kwargs = {}
    # Samples are padded, not packed: packing needs attention kernels that not every image has.
    cfg.dataset = GPTSFTDatasetConfig(
        seq_length=cfg.model.seq_length,
        dataset_root=str(data),
        preprocessing=PromptCompletionSFTPreprocessingConfig(prompt_column="input", completion_column="output"),
        do_validation=False,
        do_test=False,
        num_workers=2,
    )


def set_trial(cfg: ConfigContainer) -> None:
    """Set the schedule of a trial run, and turn off a kernel that few images have."""
    # This kernel is part of APEX.
    cfg.model.gradient_accumulation_fusion = False
    cfg.train.train_iters = 100
    cfg.train.global_batch_size = 8
    cfg.train.micro_batch_size = 1
    cfg.scheduler.lr_warmup_iters = 10
    cfg.validation.eval_iters = 0
    cfg.logger.log_interval = 1
    cfg.logger.log_throughput = True
