"""Megatron-LM's training loop on machines without a GPU: the arguments and the functions that need one."""

import functools
from collections.abc import Sequence
from typing import Any

WORDS = (
    *("--transformer-impl", "local", "--distributed-backend", "gloo", "--num-workers", "0"),
    *("--no-gradient-accumulation-fusion", "--no-masked-softmax-fusion", "--no-persist-layer-norm"),
    *("--no-bias-gelu-fusion", "--no-bias-swiglu-fusion", "--no-bias-dropout-fusion", "--no-rope-fusion"),
)
"""What is added to a command line: local layers and no fused kernels, as for Bridge (cpu/configuration.py)."""

LEFT_OUT = (
    *("--cross-entropy-loss-fusion", "--moe-grouped-gemm", "--moe-permute-fusion", "--moe-router-fusion"),
    *("--moe-shared-expert-overlap", "--tp-comm-overlap", "--te-rng-tracker", "--use-transformer-engine-op-fuser"),
    *("--use-flash-attn", "--use-cpu-initialization"),
)
"""Flags of GPU kernels. With --use-cpu-initialization Megatron-LM alone would start from other weights."""


def words_for_cpu(words: Sequence[str]) -> list[str]:
    """Return a command line for the CPU; a value of `--cross-entropy-fusion-impl` and the like has no effect then."""
    return [*(word for word in words if word not in LEFT_OUT), *WORDS]


def enable() -> None:
    """Let megatron.training run here; after launcher.job.cpu.enable()."""
    import torch
    from megatron.training import training

    def capability(_device: Any = None) -> tuple[int, int]:
        return (8, 0)

    torch.cuda.get_device_capability = capability
    if not isinstance(training.initialize_megatron, functools.partial):
        training.initialize_megatron = functools.partial(training.initialize_megatron, allow_no_cuda=True)
