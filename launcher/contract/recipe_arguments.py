"""Arguments of recipes that plan and job have to read alike: which every recipe takes, and those of older releases.

An assignment `NAME=VALUE` without a dot is an argument of the recipe where the recipe has such a parameter. Beyond that

| name | recipes | meaning |
| --- | --- | --- |
| `peft` | all | adapters to train: lora, dora, none |
| `data`, `data_columns` | all | what to train on (contract/data_request.py) |
| `tokenizer` | all | a tokenizer's directory or its name on Hugging Face's hub |
| `forward_step` | all | the function that computes the loss (job/model/forward.py) |
| `hf_path`, KEYWORDS | Bridge's | the model; what the recipe's function took before 0.3.1 |

`peft` and `tokenizer` are sections of the configuration too: `peft=null` and `peft={...}` are overrides, as ever.
"""

from collections.abc import Iterable, Mapping

from .values import INTERPOLATION, Refused, nearest

_MODEL = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "pipeline_dtype",
    "virtual_pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
    "sequence_parallel",
    "account_for_embedding_in_pipeline_split",
    "account_for_loss_in_pipeline_split",
    "recompute_granularity",
    "recompute_method",
    "recompute_num_layers",
    "recompute_modules",
    "apply_rope_fusion",
    "cp_comm_type",
    "moe_flex_dispatcher_backend",
    "mtp_num_layers",
    "mtp_loss_scaling_factor",
    "num_layers",
    "freeze_language_model",
    "freeze_vision_model",
    "freeze_vision_projection",
)

FIELDS: Mapping[str, tuple[str, ...]] = {
    **{name: (f"model.{name}",) for name in _MODEL},
    "layout": ("model.pipeline_model_parallel_layout",),
    "seq_length": ("model.seq_length", "dataset.seq_length"),
    "train_iters": ("train.train_iters",),
    "global_batch_size": ("train.global_batch_size",),
    "micro_batch_size": ("train.micro_batch_size",),
    "eval_interval": ("validation.eval_interval",),
    "eval_iters": ("validation.eval_iters",),
    "lr": ("optimizer.lr",),
    "finetune_lr": ("optimizer.lr",),
    "min_lr": ("optimizer.min_lr",),
    "adam_eps": ("optimizer.adam_eps",),
    "lr_warmup_iters": ("scheduler.lr_warmup_iters",),
    "lr_decay_iters": ("scheduler.lr_decay_iters",),
    # 0 means that nothing is saved, in Bridge's loop as in its recipes.
    "save_interval": ("checkpoint.save_interval",),
    "pretrained_checkpoint": ("checkpoint.pretrained_checkpoint",),
    "wandb_project": ("logger.wandb_project",),
    "wandb_entity": ("logger.wandb_entity",),
    "wandb_exp_name": ("logger.wandb_exp_name",),
    "use_megatron_fsdp": ("ddp.use_megatron_fsdp",),
    "check_for_nan_in_grad": ("ddp.check_for_nan_in_grad",),
    "precision_config": ("mixed_precision",),
    "comm_overlap_config": ("comm_overlap",),
}
"""Keyword to the fields that it sets."""

DATA_KEYWORDS = (
    "data_paths",
    "data_args_path",
    "train_data_path",
    "valid_data_path",
    "test_data_path",
    "per_split_data_args_path",
    "mock",
)

SPECIAL_KEYWORDS = (
    *("use_null_tokenizer", "tokenizer_model", "enable_deepep", "enable_recompute"),
    *("dir", "name"),
)
"""Keywords that set more than a field."""

KEYWORDS = frozenset({*FIELDS, *DATA_KEYWORDS, *SPECIAL_KEYWORDS, "hf_path"})
"""All keywords that recipe functions of Bridge took until 0.3.0."""

EVERY = ("peft", "data", "data_columns", "tokenizer", "forward_step")
"""What every recipe takes, unless it has a parameter of that name itself."""

_NAMES = ("data", "data_columns", "tokenizer", "forward_step", "hf_path")
"""Those whose value is a name or a path."""

SCHEMES = ("lora", "dora", "none")
"""What `peft=` takes."""

_SECTIONS = ("peft", "tokenizer")
"""Names in EVERY that are sections of a configuration as well."""


def is_argument(name: str, value: str, *, bridge: bool) -> bool:
    """Return whether the assignment `name=value` is an argument although the recipe has no such parameter.

    `bridge` says that the recipe is one of Bridge's own.
    """
    if name in _SECTIONS and (value in ("null", "") or value.startswith("{") or INTERPOLATION in value):
        return False
    return name in EVERY or (bridge and name in KEYWORDS)


def check(name: str, value: str) -> None:
    """Raise Refused where one of EVERY has a value that it never takes."""
    from . import data_request

    if name == "peft" and value not in SCHEMES:
        near = nearest(value.lower(), SCHEMES, count=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise Refused(f"peft={value}: it takes {', '.join(SCHEMES)}", f"{hint}fields are overrides: peft.dim=16")
    if name in _NAMES and value.lower() == "none":
        raise Refused(f"{name}={value} would be the name {value!r}", f"leave {name} out for what the recipe has")
    if name == "data":
        data_request.parse(value)
    elif name == "data_columns":
        data_request.columns(value)
    elif name in EVERY and not value:
        raise Refused(f"{name}= is empty")


def successors(name: str, known: Iterable[str]) -> list[str]:
    """Return what replaced X_finetune_config of Bridge up to 0.3.0: X_sft_config and X_peft_config, if they exist."""
    stem, found, _ = name.partition("_finetune_config")
    known = set(known)
    return [one for one in (f"{stem}_sft_config", f"{stem}_peft_config") if found and one in known]
