"""Overrides that work, and what the configuration holds afterwards: the table of test_overrides.py."""

EFFECTS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "plain values": (
        ("train.train_iters=20", "optimizer.lr=1e-3", "optimizer.min_lr=0", "logger.tensorboard_dir=/a/b"),
        {"train.train_iters": "20", "optimizer.lr": "0.001", "logger.tensorboard_dir": "'/a/b'"},
    ),
    "a plus on a key that exists changes it": (
        ("+train.train_iters=21", "++train.global_batch_size=16"),
        {"train.train_iters": "21", "train.global_batch_size": "16"},
    ),
    "keys of an older release": (
        ("dist.lazy_init=false", "optimizer.muon_use_nesterov=true", "dataset.sequence_length=64"),
        {"dist.lazy_mpu_init": "False", "optimizer.muon_nesterov": "True", "dataset.seq_length": "64"},
    ),
    "the last of two counts": (("train.train_iters=1", "train.train_iters=2"), {"train.train_iters": "2"}),
    "a signal by name or number": (("train.exit_signal=SIGUSR1",), {"train.exit_signal": "<Signals.SIGUSR1: 10>"}),
    "a signal's number": (("train.exit_signal=12",), {"train.exit_signal": "<Signals.SIGUSR2: 12>"}),
    "an enum": (("model.attention_backend=flash",), {"model.attention_backend": "<AttnBackend.flash: 1>"}),
    "a data type that Bridge itself would keep as text": (
        ("model.autocast_dtype=bf16", "model.params_dtype=torch.float16"),
        {"model.autocast_dtype": "torch.bfloat16", "model.params_dtype": "torch.float16"},
    ),
    "a tuple": (("model.window_size=[8,0]",), {"model.window_size": "(8, 0)"}),
    "lists and nested tuples": (
        ("profiling.profile_ranks=[0, 3]", "dataset.blend=[[a,'b c'],[0.5,0.5]]"),
        {"profiling.profile_ranks": "[0, 3]", "dataset.blend": "(['a', 'b c'], [0.5, 0.5])"},
    ),
    "quoted text arrives whole": (
        ("checkpoint.save='a,b=c {d}'", 'logger.wandb_project="it\'s $HOME; `x`"'),
        {"checkpoint.save": "'a,b=c {d}'", "logger.wandb_project": '"it\'s $HOME; `x`"'},
    ),
    "interpolations are resolved at the end, as Bridge does": (
        ("scheduler.lr_decay_iters=${train.train_iters}", "train.train_iters=7", "checkpoint.save=${oc.env:PATH}"),
        {"scheduler.lr_decay_iters": "7"},
    ),
    "an activation by its name": (("model.activation_func=relu",), {"model.activation_func": "<function relu"}),
    "a section that is null is made": (
        ("ft.enable_ft_package=true",),
        {"ft": "FaultToleranceConfig(enable_ft_package=True"},
    ),
    "a mapping for a section that is null": (
        ("straggler={log_straggler:true}", "inprocess_restart.enabled=false"),
        {"straggler.log_straggler": "True", "inprocess_restart.enabled": "False"},
    ),
    "a mapping for a section that is there changes its keys only": (
        ("train={train_iters:5}",),
        {"train.train_iters": "5", "train.global_batch_size": "16"},
    ),
    "a section whose class needs a value": (
        ("comm_overlap.tp_comm_overlap=false", "comm_overlap.bucket_size=1000"),
        {"comm_overlap.tp_comm_overlap": "False", "comm_overlap.bucket_size": "1000"},
    ),
    "keys below a named precision": (
        ("mixed_precision=bf16_mixed", "mixed_precision.grad_reduce_in_fp32=false"),
        {"mixed_precision.grad_reduce_in_fp32": "False", "mixed_precision.bf16": "True"},
    ),
    "a class by _target_": (
        ("peft={_target_:megatron.bridge.peft.lora.LoRA,dim:4}", "checkpoint.pretrained_checkpoint=/"),
        {"peft.dim": "4"},
    ),
    "an environment variable": (
        ("env_vars.MINE=1", "env_vars={YOURS: x}"),
        {"env_vars.MINE": "1", "env_vars.YOURS": "'x'"},
    ),
    "null unsets": (
        ("mixed_precision=null", "checkpoint.save=null"),
        {"mixed_precision": "None", "checkpoint.save": "None"},
    ),
}
"""By name: the overrides, and the beginning of the repr of what each key then holds."""
