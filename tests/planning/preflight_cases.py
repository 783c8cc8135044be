"""The table of what preflight reports before a run is queued."""

from dataclasses import dataclass, field
from typing import Any

from launcher.discovery.training_files import SavedModel, TrainingFiles

TP, PP, CP = (f"model.{kind}_parallel_size" for kind in ("tensor_model", "pipeline_model", "context"))
VP, EP, ETP = (f"model.{kind}_parallel_size" for kind in ("virtual_pipeline_model", "expert_model", "expert_tensor"))


@dataclass(frozen=True)
class Row:
    """What is known, what must be said about that, and whether it is a refusal. Nothing else may be said."""

    says: str
    values: dict[str, Any]
    hint: str = ""
    impossible: bool = True
    more: dict[str, Any] = field(default_factory=dict)


def warned(says: str, values: dict[str, Any], hint: str = "", **more: Any) -> Row:
    return Row(says, values, hint, impossible=False, more=more)


def refused(says: str, values: dict[str, Any], hint: str = "", **more: Any) -> Row:
    return Row(says, values, hint, more=more)


SAVED = TrainingFiles(loads=SavedModel("/old/iter_0000500", 500, {"model.num_layers": 24, "model.hidden_size": 2048}))
SHARDED = {
    TP: 4,
    PP: 1,
    EP: 1,
    "checkpoint.save_optim": True,
    "optimizer.use_distributed_optimizer": True,
    "checkpoint.dist_ckpt_optim_fully_reshardable": False,
}


def of_tp4(**changes: Any) -> TrainingFiles:
    """The run's own checkpoint, saved with TP 4."""
    return TrainingFiles(loads=SavedModel("/old/iter_0000500", 500, {**SHARDED, **changes}, own=True))


IMAGE = {"megatron-core": "0.19.2", "transformer-engine": "2.19.0"}
BATCH = {"train.micro_batch_size": 2, TP: 1, PP: 1, CP: 1}

TABLE = (
    refused(
        "ft.enable_ft_package=true works under NVIDIA's ft_launcher",
        {"ft.enable_ft_package": True},
        "ft_launcher = true",
    ),
    warned(
        "no nvidia-resiliency-ext was found in the image",
        {"ft.enable_ft_package": True},
        "choose an image",
        ft_launcher=True,
        packages=IMAGE,
    ),
    refused(
        "checkpoint.load=/old/run holds a checkpoint",
        {},
        "--allow-checkpoint-load",
        files=TrainingFiles(forbidden="/old/run"),
    ),
    refused(
        "hf_path: /models/absent does not exist, and the ranks run on this machine",
        {},
        "correct the path",
        files=TrainingFiles(missing=(("hf_path", "/models/absent"),)),
        local=True,
    ),
    warned(
        "moves tokens between experts by DeepEP, and the image's manifest lists no such library",
        {"model.moe_token_dispatcher_type": "flex", "model.moe_flex_dispatcher_backend": "deepep", EP: 4},
        "alltoall",
        packages=IMAGE,
    ),
    warned(
        "by HybridEP (DeepEP's branch hybrid-ep), and the image's manifest lists deepep",
        {"model.moe_token_dispatcher_type": "flex", "model.moe_flex_dispatcher_backend": "hybridep"},
        "versions.json",
        packages=IMAGE,
        moe_backends=("deepep",),
    ),
    refused("8 ranks cannot be divided by TP 3 x PP 1 x CP 1 = 3", {TP: 3, PP: 1, CP: 1}),
    refused("8 ranks cannot be divided by TP 2 x PP 2 x CP 4 = 16", {TP: 2, PP: 2, CP: 4}),
    refused("8 ranks cannot be divided by ETP 1 x EP 16 x PP 1 = 16", {ETP: 1, EP: 16, PP: 1}),
    refused(
        "model.num_attention_heads=12 cannot be divided by model.tensor_model_parallel_size=8",
        {TP: 8, "model.num_attention_heads": 12},
        "TP 1, 2, 4 would do",
    ),
    refused("model.ffn_hidden_size=100 cannot be divided", {TP: 8, "model.ffn_hidden_size": 100}, "TP 1, 2, 4"),
    refused("model.vocab_size=151643 cannot be divided", {TP: 4, "model.padded_vocab_size": 151643}, "151644"),
    refused(
        "model.num_query_groups=6 is neither a multiple nor a divisor", {TP: 4, "model.num_query_groups": 6}, "1, 2"
    ),
    warned("keys and values are computed 2 times", {TP: 8, "model.num_query_groups": 4}, "TP 4"),
    refused(
        "model.hidden_size=255 cannot be divided by model.num_attention_heads=4",
        {
            "model.hidden_size": 255,
            "model.num_attention_heads": 4,
            "model.kv_channels": None,
            "model.multi_latent_attention": False,
        },
    ),
    refused(
        "model.num_attention_heads=8 cannot be divided by model.num_query_groups=3",
        {"model.num_attention_heads": 8, "model.num_query_groups": 3},
    ),
    refused(
        "model.moe_router_topk=8 of model.num_moe_experts=4", {"model.num_moe_experts": 4, "model.moe_router_topk": 8}
    ),
    warned("model.sequence_parallel=true needs tensor", {TP: 1, "model.sequence_parallel": True}, "=false"),
    refused(
        "a mixture of experts with model.tensor_model_parallel_size=2 needs model.sequence_parallel=true",
        {TP: 2, "model.sequence_parallel": False, "model.num_moe_experts": 8},
    ),
    refused("model.seq_length=4098 cannot be divided by 2 x", {"model.seq_length": 4098, CP: 2}, "4096 or 4100"),
    refused("model.seq_length=2 cannot be divided by 2 x", {"model.seq_length": 2, CP: 4}, "use 8"),
    refused(
        "model.seq_length=4100 / model.context_parallel_size=1 cannot be divided by model.tensor_model_parallel_size=8",
        {"model.seq_length": 4100, CP: 1, TP: 8, "model.sequence_parallel": True},
        "use 4104",
    ),
    refused("model.virtual_pipeline_model_parallel_size=2 needs a pipeline", {VP: 2, PP: 1}),
    warned("model.num_layers=30 cannot be divided by", {"model.num_layers": 30, PP: 4}, "unless the recipe spreads"),
    warned(
        "model.num_layers=12 cannot be divided by model.pipeline_model_parallel_size=4 x "
        "model.virtual_pipeline_model_parallel_size=2 = 8",
        {"model.num_layers": 12, PP: 4, VP: 2},
        "PP 1, 2 would do",
    ),
    refused("model.num_moe_experts=6 cannot be divided by", {"model.num_moe_experts": 6, EP: 4}, "EP 1, 2 would do"),
    refused(
        "model.moe_ffn_hidden_size=770 cannot be divided by model.expert_tensor_parallel_size=4",
        {"model.num_moe_experts": 8, EP: 1, ETP: 4, "model.moe_ffn_hidden_size": 770},
    ),
    warned(
        "computes the 16 experts of a rank one after another",
        {"model.num_moe_experts": 32, EP: 2, "model.moe_grouped_gemm": False},
    ),
    warned(
        "model.moe_layer_freq=2 has no effect: default_layer_spec makes every layer a mixture",
        {"model.num_moe_experts": 8, "model.moe_layer_freq": 2, "model.layer_spec": "default_layer_spec"},
    ),
    refused(
        "global_batch_size=30 is not a multiple of micro-batch size 2 x data-parallel size 8 = 16",
        {**BATCH, "train.global_batch_size": 30},
        "use a global batch size of 16 or 32",
    ),
    refused(
        "global_batch_size=6 is not a multiple",
        {**BATCH, "train.global_batch_size": 6},
        "use a global batch size of 16",
    ),
    warned(
        "each rank processes 512 micro-batches", {**BATCH, "train.global_batch_size": 8192}, "global_batch_size=16384"
    ),
    warned(
        "with 2 micro-batches in a step, the 4 pipeline stages are idle 60 % of the time",
        {**BATCH, PP: 4, "train.global_batch_size": 8},
    ),
    warned(
        "5 micro-batches cannot be interleaved over PP 4: 1 are left over",
        {**BATCH, PP: 4, VP: 2, "train.global_batch_size": 20},
        "multiple of 4",
    ),
    refused("FP8 (model.fp8=hybrid) needs Hopper", {"model.fp8": "hybrid"}, "another cluster", gpu="A100"),
    refused("FP8 (mixed_precision=bf16_with_fp8", {"mixed_precision": "bf16_with_fp8_mixed"}, gpu="A100"),
    refused("MXFP8 (model.fp8_recipe=mxfp8)", {"model.fp8": "e4m3", "model.fp8_recipe": "mxfp8"}, gpu="H100"),
    refused("MXFP8 (mixed_precision=", {"mixed_precision": "bf16_with_mxfp8_mixed"}, gpu="H200"),
    refused("FP4 (model.fp4=e2m1) needs Blackwell", {"model.fp4": "e2m1"}, gpu="H100"),
    refused("FP4 (mixed_precision=bf16_with_nvfp4_mixed)", {"mixed_precision": "bf16_with_nvfp4_mixed"}, gpu="h100"),
    refused("bf16 (model.bf16=true) needs Ampere", {"model.bf16": True}, gpu="V100"),
    warned(
        "scheduler.lr_warmup_iters=2000 is not less than train.train_iters=100: the learning rate never reaches",
        {"scheduler.lr_warmup_iters": 2000, "train.train_iters": 100},
        "scheduler.lr_warmup_iters=10",
    ),
    warned(
        "scheduler.lr_warmup_iters=200 is not less than scheduler.lr_decay_iters=150: Megatron Bridge changes it to "
        "149",
        {"scheduler.lr_warmup_iters": 200, "scheduler.lr_decay_iters": 150},
    ),
    warned(
        "scheduler.lr_decay_iters=500 is less than train.train_iters=800: the last 300 iterations",
        {"scheduler.lr_decay_iters": 500, "train.train_iters": 800},
        "scheduler.lr_decay_iters=800",
    ),
    refused(
        "optimizer.min_lr=0.001 is more than optimizer.lr=0.0003", {"optimizer.lr": 3e-4, "optimizer.min_lr": 1e-3}
    ),
    warned(
        "validation.eval_interval=2000 is more than train.train_iters=100",
        {"validation.eval_interval": 2000, "validation.eval_iters": 5, "train.train_iters": 100},
        "eval_iters=0",
    ),
    warned(
        "validation.eval_iters=5 with validation.eval_interval=0",
        {"validation.eval_interval": 0, "validation.eval_iters": 5},
    ),
    warned("checkpoint.save_interval=0 saves nothing", {"checkpoint.save_interval": 0}, "cannot be resumed"),
    warned(
        "checkpoint.save_interval=500 is more than train.train_iters=100: the only checkpoint is the last",
        {"checkpoint.save_interval": 500, "train.train_iters": 100},
    ),
    warned(
        "checkpoint.save=null saves nothing of 5000 iterations",
        {"checkpoint.save": None, "train.train_iters": 5000},
        overridden=frozenset({"checkpoint.save"}),
    ),
    warned("train.train_iters=0 trains nothing", {"train.train_iters": 0}),
    warned(
        "checkpoint.save=/tmp/x looks like a directory local to each node, and 2 nodes",
        {"checkpoint.save": "/tmp/x"},
        "shared file system",
        nodes=2,
        overridden=frozenset({"checkpoint.save"}),
    ),
    refused(
        "the checkpoint /old/iter_0000500 has model.num_layers=24, and this run's model has 16",
        {"model.num_layers": 16, "model.hidden_size": 2048},
        files=SAVED,
    ),
    warned(
        "/old/iter_0000500 is from iteration 500, and train.train_iters=100: the run would end at once",
        {"train.train_iters": 100, "checkpoint.finetune": False},
        "checkpoint.finetune=true",
        files=SAVED,
    ),
    refused(
        "/old/iter_0000500 was saved with TP 4 x PP 1, and this run has TP 2 x PP 2: the distributed optimizer's state",
        {TP: 2, PP: 2, EP: 1},
        "checkpoint.load_optim=false",
        files=of_tp4(),
    ),
    refused("was saved with EP 1, and this run has EP 8", {TP: 4, EP: 8}, "use EP 1 again", files=of_tp4()),
    warned(
        "was saved with TP 4, and this run has TP 8: random numbers",
        {TP: 8},
        files=of_tp4(**{"checkpoint.dist_ckpt_optim_fully_reshardable": True}),
    ),
    warned(
        "checkpoint.load_optim=false leaves out the optimizer's state",
        {TP: 4, "checkpoint.load_optim": False},
        "checkpoint.load_optim=true",
        files=of_tp4(),
    ),
    warned(
        "was saved with TP 4, and this run has TP 2: random numbers",
        {TP: 2, "checkpoint.load_optim": False},
        files=of_tp4(),
    ),
    warned(
        "model.gradient_accumulation_fusion=true needs APEX",
        {"model.gradient_accumulation_fusion": True},
        "model.gradient_accumulation_fusion=false",
        packages=IMAGE,
    ),
    warned(
        "no Transformer Engine was found in the image",
        {"model.transformer_impl": "transformer_engine"},
        packages={"megatron-core": "0.19.2", "apex": "0.1"},
    ),
    warned(
        "dataset.blend: /data/a does not exist on this machine",
        {},
        files=TrainingFiles(missing=(("dataset.blend", "/data/a"),)),
    ),
    warned(
        "tokenizer.tokenizer_model=a/b is not in the Hugging Face cache here, and HF_HUB_OFFLINE forbids",
        {},
        files=TrainingFiles(uncached=(("tokenizer.tokenizer_model", "a/b"),), offline=True),
    ),
    warned(
        "one of the 8 ranks will fetch it", {}, files=TrainingFiles(uncached=(("tokenizer.tokenizer_model", "a/b"),))
    ),
    refused(
        "tokenizer.vocab_size=300 is more than the 256 rows",
        {"tokenizer.vocab_size": 300, "tokenizer.tokenizer_type": "NullTokenizer", "model.padded_vocab_size": 256},
    ),
)
