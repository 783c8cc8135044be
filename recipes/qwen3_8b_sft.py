"""Qwen3 8B, supervised fine-tuning (SFT) on 8 GPUs (1 node): from Hugging Face weights, on your own JSONL files.

    launcher submit recipes/qwen3_8b_sft.py --nodes 1 --gpus-per-node 8 hf_path=/models/Qwen3-8B data=/data/answers

`data` is as for llama32_1b_sft.py.
"""

from pathlib import Path

from llama32_1b_sft import set_source, set_trial
from megatron.bridge.recipes.qwen.qwen3 import qwen3_8b_sft_config
from megatron.bridge.training.config import ConfigContainer

from launcher.job.model.hub import override_model


def configure(hf_path: Path, data: Path) -> ConfigContainer:
    """Configure TP=4, as in Bridge's own recipe."""
    with override_model(str(hf_path)):
        cfg = qwen3_8b_sft_config()
    set_source(cfg, hf_path, data)
    set_trial(cfg)
    return cfg
