"""DeepSeek-V2-Lite (16 billion parameters, 64 experts, multi-latent attention) from random weights, on mock data.

    launcher submit recipes/deepseek_v2_lite_pretrain.py --nodes 1 --gpus-per-node 8
    launcher run recipes/deepseek_v2_lite_pretrain.py hf_path=/models/DeepSeek-V2-Lite moe_token_dispatcher_type=deepep

Bridge's own recipe with the schedule of a trial run. The architecture comes from
configs/models/deepseek_v2_lite.json, so building it needs no network.
"""

from megatron.bridge import AutoBridge
from megatron.bridge.recipes.deepseek.deepseek_v2 import deepseek_v2_lite_pretrain_config
from megatron.bridge.training.config import ConfigContainer

from launcher.runtime.models import offline_hub

PARALLEL = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "pipeline_model_parallel_layout",
    "pipeline_dtype",
    "virtual_pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
    "sequence_parallel",
    "seq_length",
    "moe_token_dispatcher_type",
    "moe_flex_dispatcher_backend",
    "recompute_granularity",
    "recompute_method",
    "recompute_num_layers",
)
"""Fields of the model that the recipe decides, not the architecture."""


def configure(hf_path: str | None = None, moe_token_dispatcher_type: str | None = None) -> ConfigContainer:
    """One node of 8 GPUs with EP=8.

    `hf_path`: a directory with another config.json of this family, whose architecture is used (no weights are read).
    `moe_token_dispatcher_type`: "deepep" moves tokens between experts with DeepEP, which the image must have.
    """
    with offline_hub(deepseek_v2_lite="deepseek-ai/DeepSeek-V2-Lite"):
        cfg = deepseek_v2_lite_pretrain_config()
    if hf_path:
        model = AutoBridge.from_hf_pretrained(hf_path).to_megatron_provider(load_weights=False)
        for name in PARALLEL:
            setattr(model, name, getattr(cfg.model, name))
        cfg.model = model

    # A fused kernel of Transformer Engine that not every release has for this router.
    cfg.model.moe_permute_fusion = False
    # Its kernel is part of APEX, which few images have.
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
        cfg.model.moe_enable_deepep = True
        # DeepEP's streams leave none for it.
        cfg.model.moe_shared_expert_overlap = False
    elif moe_token_dispatcher_type is not None:
        cfg.model.moe_token_dispatcher_type = moe_token_dispatcher_type
    return cfg
