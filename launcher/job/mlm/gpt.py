"""A GPT's pretraining by megatron.training alone, for where there is no checkout with pretrain_gpt.py.

It reads the same arguments. Each rank reads its own batches, so that nothing has to be broadcast among tensor-parallel
ranks.
"""

import functools
from typing import Any


def main() -> None:
    """Parse sys.argv as Megatron-LM does, and train."""
    from megatron.core.enums import ModelType
    from megatron.training import pretrain
    from megatron.training.argument_utils import gpt_config_from_args, pretrain_cfg_container_from_args
    from megatron.training.arguments import parse_and_validate_args

    args = parse_and_validate_args()
    make_datasets.is_distributed = True  # type: ignore[attr-defined] # an attribute that pretrain() asks for
    pretrain(
        pretrain_cfg_container_from_args(args, gpt_config_from_args(args)),
        make_datasets,
        ModelType.encoder_or_decoder,
        forward_step,
    )


def make_datasets(samples: Any, vp_stage: "int | None" = None) -> tuple[Any, Any, Any]:
    """Return the data sets for training, validation and test, of so many samples each."""
    del vp_stage
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig, MockGPTDataset
    from megatron.training import get_args, get_tokenizer
    from megatron.training.utils import get_blend_and_blend_per_split

    args = get_args()
    blend, per_split = (None, None) if args.mock_data else get_blend_and_blend_per_split(args)
    config = GPTDatasetConfig(
        random_seed=args.seed,
        sequence_length=args.seq_length,
        blend=blend,
        blend_per_split=per_split,
        split=args.split,
        path_to_cache=args.data_cache_path,
        mmap_bin_files=args.mmap_bin_files,
        num_dataset_builder_threads=args.num_dataset_builder_threads,
        tokenizer=get_tokenizer(),
        reset_position_ids=args.reset_position_ids,
        reset_attention_mask=args.reset_attention_mask,
        eod_mask_loss=args.eod_mask_loss,
        create_attention_mask=args.create_attention_mask_in_dataloader,
    )
    kind = MockGPTDataset if args.mock_data else GPTDataset
    found: tuple[Any, Any, Any] = BlendedMegatronDatasetBuilder(kind, samples, lambda: True, config).build()
    return found


def forward_step(batches: Any, model: Any) -> tuple[Any, Any]:
    """Return the model's output for the next micro-batch, and the function that makes its loss."""
    from megatron.core import parallel_state
    from megatron.core.utils import get_batch_on_this_cp_rank
    from megatron.training import get_timers

    timers = get_timers()
    timers("batch-generator", log_level=2).start()
    batch = {name: value.cuda(non_blocking=True) for name, value in next(batches).items() if value is not None}
    batch = get_batch_on_this_cp_rank(
        batch, is_hybrid_cp=False, cp_group=parallel_state.get_context_parallel_group(check_initialized=False)
    )
    timers("batch-generator").stop()
    output = model(batch["tokens"], batch["position_ids"], batch.get("attention_mask"), labels=batch["labels"])
    return output, functools.partial(loss_of, batch["loss_mask"])


def loss_of(mask: Any, output: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Return the sum of the tokens' losses, their number, and both for the log."""
    import torch

    weights = mask.reshape(-1).float()
    total = torch.sum(output.reshape(-1).float() * weights)
    tokens = weights.sum().clone().detach().to(torch.int)
    return total, tokens, {"lm loss": torch.cat([total.clone().detach().view(1), tokens.view(1)])}


if __name__ == "__main__":
    main()
