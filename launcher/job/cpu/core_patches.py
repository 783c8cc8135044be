"""Patches of megatron-core 0.16.1 and 0.19.2: gaps without Transformer Engine, and code that insists on a GPU."""

import inspect
import logging
from typing import Any

import torch  # noqa: TID253 this module is imported only where torch is loaded already

from .patch import Patch

OF = "megatron-core"


def _rng_state() -> None:
    from megatron.core.tensor_parallel import random

    random._set_cuda_rng_state = lambda state, *_arguments, **_keywords: torch.set_rng_state(state)
    # "CPU RNG state changed within GPU RNG context" is always logged, and correct, with one generator for both.
    logging.getLogger(random.__name__).addFilter(lambda record: "CPU RNG state changed" not in record.getMessage())


def _rng_fits() -> bool:
    from megatron.core.tensor_parallel import random

    return next(iter(inspect.signature(random._set_cuda_rng_state).parameters)) == "new_state"


def _rng_needed() -> bool:
    from megatron.core.tensor_parallel import random

    return "default_generators" in inspect.getsource(random._set_cuda_rng_state)


def _split_sizes() -> None:
    from megatron.core.transformer.moe import token_dispatcher

    def as_host_value(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        del record_stream
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    token_dispatcher.maybe_move_tensor_to_cpu = as_host_value


def _split_sizes_fit() -> bool:
    from megatron.core.transformer.moe import token_dispatcher

    expected = ["tensor", "as_numpy", "record_stream"]
    return list(inspect.signature(token_dispatcher.maybe_move_tensor_to_cpu).parameters) == expected


def _split_sizes_needed() -> bool:
    from megatron.core.transformer.moe import token_dispatcher

    return bool(torch.is_tensor(token_dispatcher.maybe_move_tensor_to_cpu(torch.ones(1), as_numpy=True)))


def _torch_norm() -> None:
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    create = WrappedTorchNorm.__new__

    def with_sequence_parallel(cls: Any, config: Any, *arguments: Any, **keywords: Any) -> Any:
        parallel, config.sequence_parallel = config.sequence_parallel, False
        try:
            norm = create(cls, config, *arguments, **keywords)
        finally:
            config.sequence_parallel = parallel
        for parameter in norm.parameters():
            # The mark by which finalize_model_grads sums these gradients over the tensor-parallel ranks.
            parameter.sequence_parallel = parallel
        return norm

    WrappedTorchNorm.__new__ = with_sequence_parallel


def _torch_norm_fits() -> bool:
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    return list(inspect.signature(WrappedTorchNorm.__new__).parameters)[:2] == ["cls", "config"]


def _torch_norm_needed() -> bool:
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    return "sequence parallel not supported" in inspect.getsource(WrappedTorchNorm.__new__)


def _adam_steps() -> None:
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    state_dict, load_state_dict = DistributedOptimizer.state_dict, DistributedOptimizer.load_state_dict

    def with_state(self: Any) -> Any:
        inner = self.optimizer
        if not inner.state:
            for parameter in (parameter for group in inner.param_groups for parameter in group["params"]):
                zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                inner.state[parameter] = {"step": torch.tensor(0.0), **zeros}
        return state_dict(self)

    def with_own_steps(self: Any, loaded: Any) -> None:
        steps = [group["step"] for group in loaded["optimizer"]["param_groups"] if group.get("step") is not None]
        load_state_dict(self, loaded)
        for state in self.optimizer.state.values():
            # A tensor shared by all parameters would be incremented once for each of them, and the bias correction
            # would silently drift.
            state["step"] = torch.tensor(float(max(steps)))

    DistributedOptimizer.state_dict, DistributedOptimizer.load_state_dict = with_state, with_own_steps


def _adam_fits() -> bool:
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    shapes = [
        list(inspect.signature(getattr(DistributedOptimizer, name)).parameters)
        for name in ("state_dict", "load_state_dict")
    ]
    return shapes == [["self"], ["self", "state_dict"]]


def _adam_needed() -> bool:
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    saves = inspect.getsource(DistributedOptimizer.state_dict)
    loads = inspect.getsource(DistributedOptimizer.load_state_dict)
    return "assert len(steps) == 1" in saves and 's["step"] = step\n' in loads


def _no_general_gemm() -> None:
    from megatron.core.transformer.moe import moe_utils

    moe_utils.te_general_gemm = None


def _general_gemm_fits() -> bool:
    from megatron.core.transformer.moe import moe_utils

    return "if te_general_gemm is not None" in inspect.getsource(moe_utils)


def _general_gemm_needed() -> bool:
    from megatron.core.transformer.moe import moe_utils

    return not hasattr(moe_utils, "te_general_gemm")


PATCHES = (
    Patch(
        "random state of the GPU",
        OF,
        "tensor_parallel.random sets the state of torch.cuda.default_generators, which is empty",
        _rng_state,
        fits=_rng_fits,
        needed=_rng_needed,
    ),
    Patch(
        "split sizes of the token dispatcher",
        OF,
        "tensors that are already on the CPU stay tensors, which torch.distributed refuses as split sizes",
        _split_sizes,
        fits=_split_sizes_fit,
        needed=_split_sizes_needed,
    ),
    Patch(
        "torch norms with sequence parallelism",
        OF,
        "WrappedTorchNorm refuses sequence parallelism, although it lacks only the mark on its parameters",
        _torch_norm,
        fits=_torch_norm_fits,
        needed=_torch_norm_needed,
    ),
    Patch(
        "step of torch's AdamW in the distributed optimizer",
        OF,
        "without Transformer Engine or Apex, saving before the first step fails, and loading makes all parameters "
        "share one step",
        _adam_steps,
        fits=_adam_fits,
        needed=_adam_needed,
    ),
    Patch(
        "router without Transformer Engine's matrix product",
        OF,
        "moe_utils compares te_general_gemm with None, a name that exists only with Transformer Engine",
        _no_general_gemm,
        fits=_general_gemm_fits,
        needed=_general_gemm_needed,
        releases=("0.3.1",),
    ),
)
