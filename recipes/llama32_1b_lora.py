r"""Llama 3.2 1B, LoRA on 1 GPU or more: adapters beside frozen Hugging Face weights, on your own JSONL files.

    launcher run recipes/llama32_1b_lora.py --gpus-per-node 1 hf_path=/models/Llama-3.2-1B data=/data/answers
    launcher run recipes/llama32_1b_lora.py --gpus-per-node 1 hf_path=/models/Llama-3.2-1B data=/data/answers \
        adapter=dora peft.dim=16

`data` is as for llama32_1b_sft.py.
"""

from pathlib import Path
from typing import Literal

from llama32_1b_sft import set_source, set_trial
from megatron.bridge.recipes.llama.llama3 import llama32_1b_peft_config
from megatron.bridge.training.config import ConfigContainer

from launcher.job.model.hub import override_model


def configure(hf_path: Path, data: Path, adapter: Literal["lora", "dora"] = "lora") -> ConfigContainer:
    """Configure training of the adapters only; the model itself stays as it is in `hf_path`."""
    with override_model(str(hf_path)):
        cfg = llama32_1b_peft_config(peft_scheme=adapter)
    set_source(cfg, hf_path, data)
    set_trial(cfg)
    return cfg
