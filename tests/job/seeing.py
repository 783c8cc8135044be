"""A recipe: a tiny Qwen2.5-VL on pictures that are all bright or all dark, and a word that says which.

The text is the same in all samples. A model that does not see the picture cannot do better than a loss of ln 2.
"""

# ruff: noqa: TID253
# mypy: disable-error-code="misc"

from dataclasses import dataclass
from typing import Any

import torch
from megatron.bridge.data.base import DatasetBuildContext, DatasetProvider
from megatron.bridge.models.qwen_vl.qwen25_vl_provider import Qwen25VLModelProvider
from megatron.bridge.recipes.gpt.vanilla_gpt import vanilla_gpt_pretrain_config
from megatron.bridge.training.config import ConfigContainer
from megatron.bridge.training.utils.visual_inputs import GenericVisualInputs
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

START, END, IMAGE, BRIGHT, DARK = 1, 2, 3, 10, 11
GRID = (1, 4, 4)  # patches in time, height and width; four of them make a token
PIXELS = 3 * 2 * 14 * 14


class Pictures(torch.utils.data.Dataset[Any]):
    """`count` samples, bright and dark ones in turn."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index % 2

    @staticmethod
    def collate_fn(batch: list[int]) -> dict[str, Any]:
        """Tokens of 8 with one that counts, and the pictures' patches."""
        rows = len(batch)
        words = torch.tensor([BRIGHT if one else DARK for one in batch])
        tokens = torch.tensor([START, *[IMAGE] * 4, END, END, END]).repeat(rows, 1)
        labels = tokens.roll(-1, 1)
        labels[:, -1] = words
        loss_mask = torch.zeros(rows, 8)
        loss_mask[:, -1] = 1
        light = torch.tensor([1.0 if one else -1.0 for one in batch])
        pixels = light.repeat_interleave(16)[:, None].expand(-1, PIXELS).contiguous()
        return {
            "tokens": tokens,
            "labels": labels,
            "loss_mask": loss_mask,
            "position_ids": torch.arange(8).repeat(rows, 1),
            "attention_mask": None,
            "visual_inputs": GenericVisualInputs(
                pixel_values=pixels, image_grid_thw=torch.tensor(GRID).repeat(rows, 1)
            ),
        }


@dataclass(kw_only=True)
class PicturesConfig(DatasetProvider):
    """Pictures as Bridge builds a data set."""

    seq_length: int = 8
    dataloader_type: Any = "single"

    def build_datasets(self, context: DatasetBuildContext) -> tuple[Any, Any, Any]:
        """Training data alone."""
        return Pictures(context.train_samples), None, None


def configure() -> ConfigContainer:
    """Two layers of width 64 for text, one for pictures."""
    cfg = vanilla_gpt_pretrain_config()
    vision = Qwen2_5_VLVisionConfig(
        depth=1, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=64, fullatt_block_indexes=[0]
    )
    vision._attn_implementation = "sdpa"
    cfg.model = Qwen25VLModelProvider(
        num_layers=2,
        hidden_size=64,
        ffn_hidden_size=128,
        num_attention_heads=4,
        kv_channels=16,
        mrope_section=[2, 3, 3],
        vocab_size=16,
        seq_length=8,
        vision_config=vision,
        vision_start_token_id=START,
        vision_end_token_id=END,
        vision_token_id=IMAGE,
        image_token_id=IMAGE,
        video_token_id=15,
        gradient_accumulation_fusion=False,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        bf16=True,
        params_dtype=torch.bfloat16,
    )
    cfg.dataset = PicturesConfig(num_workers=0)
    cfg.tokenizer.tokenizer_type = "NullTokenizer"
    cfg.tokenizer.vocab_size = 15
    cfg.train.train_iters = 15
    cfg.train.global_batch_size = 8
    cfg.train.micro_batch_size = 8
    cfg.optimizer.lr = 1e-2
    cfg.optimizer.min_lr = 1e-2
    cfg.scheduler.lr_warmup_iters = 0
    cfg.validation.eval_iters = 0
    cfg.logger.log_interval = 1
    return cfg
