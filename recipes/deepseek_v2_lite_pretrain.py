"""DeepSeek-V2-Lite (16B, 64 experts, multi-latent attention), pretraining on 8 GPUs: Bridge's own recipe, offline.

    launcher submit recipes/deepseek_v2_lite_pretrain.py --nodes 1 --gpus-per-node 8
    launcher run recipes/deepseek_v2_lite_pretrain.py hf_path=/models/DeepSeek-V2-Lite moe_token_dispatcher_type=deepep

Random weights unless `hf_path` names a model, mock data, and the schedule of a trial run.
"""

from megatron.bridge.recipes.deepseek.deepseek_v2 import deepseek_v2_lite_pretrain_config
from megatron.bridge.training.config import ConfigContainer

from launcher.job.model.hub import override_model


def configure(hf_path: str | None = None, moe_token_dispatcher_type: str | None = None) -> ConfigContainer:
    """Configure one node of 8 GPUs with EP=8.

    `hf_path`: a model of this family, its directory or its name on the hub, in place of the recipe's own; its weights
    are used too, unless `--init random` is given. `moe_token_dispatcher_type`: "deepep" moves tokens between experts
    with DeepEP, which the image must have.
    """
    with override_model(hf_path):
        cfg = deepseek_v2_lite_pretrain_config()

    # Mock data with as many token ids as the model has, so that the output layer has its real size.
    cfg.tokenizer.vocab_size = cfg.model.vocab_size
    # Not every release of Transformer Engine has this fused kernel for this router.
    cfg.model.moe_permute_fusion = False
    # This kernel is part of APEX, which few images have.
    cfg.model.gradient_accumulation_fusion = False

    cfg.train.train_iters = 500
    cfg.train.global_batch_size = 64
    cfg.train.micro_batch_size = 1
    cfg.validation.eval_interval = 100
    cfg.validation.eval_iters = 0
    cfg.scheduler.lr_warmup_iters = 50
    cfg.checkpoint.save_interval = 100

    if moe_token_dispatcher_type == "deepep":
        cfg.model.moe_token_dispatcher_type = "flex"
        cfg.model.moe_flex_dispatcher_backend = "deepep"
        # DeepEP's streams leave none for the overlap.
        cfg.model.moe_shared_expert_overlap = False
    elif moe_token_dispatcher_type is not None:
        cfg.model.moe_token_dispatcher_type = moe_token_dispatcher_type
    return cfg
