"""Patches of torch 2.13: the device "cuda" is the CPU, and torch.cuda answers as one GPU without streams or memory."""

import collections
import contextlib
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch  # noqa: TID253 this module is imported only where torch is loaded already
from torch.overrides import TorchFunctionMode  # noqa: TID253

from .patch import Patch, fails

OF = "torch"
CPU = torch.device("cpu")


def _is_gpu(device: Any) -> bool:
    if isinstance(device, torch.device):
        return bool(device.type == "cuda")
    # A bare index means a GPU: megatron-core passes torch.cuda.current_device().
    return (isinstance(device, int) and not isinstance(device, bool)) or (
        isinstance(device, str) and device.startswith("cuda")
    )


class CudaMeansCpu(TorchFunctionMode):  # type: ignore[misc]
    """Mode that rewrites device arguments of torch functions, and gives types of CPU tensors CUDA names."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        keywords = dict(kwargs or {})
        if _is_gpu(keywords.get("device")):
            keywords["device"] = CPU
        if keywords.get("pin_memory"):
            keywords["pin_memory"] = False
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory, torch.Tensor.record_stream):
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and _is_gpu(args[1]):
            args = (args[0], CPU, *args[2:])
        if func is torch.Tensor.type and len(args) == 1 and not keywords:
            # DistributedDataParallel and the optimizers sort gradients by names like torch.cuda.BFloat16Tensor.
            return func(*args).replace("torch.", "torch.cuda.")
        return func(*args, **keywords)


class Stream:
    """Stand-in for a stream on which everything has already happened."""

    def __init__(self, *_arguments: Any, **_keywords: Any) -> None:
        pass

    def record_event(self, *_arguments: Any) -> "Event":
        """Return an event that has already happened."""
        return Event()

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_arguments, **_keywords: None


class Event(Stream):
    """Stand-in for an event that has already happened."""

    def query(self) -> bool:
        """Return True."""
        return True

    def elapsed_time(self, _other: "Event") -> float:
        """Return 0.0 ms."""
        return 0.0


def _always(value: Any = None) -> Callable[..., Any]:
    return lambda *_arguments, **_keywords: value


@contextlib.contextmanager
def _no_stream(_stream: Any) -> Iterator[None]:
    yield


def _devices() -> None:
    # Left on for the rest of the process: nowhere should "cuda" mean anything else.
    CudaMeansCpu().__enter__()
    torch.nn.Module.cuda = lambda self, *_arguments, **_keywords: self


def _backward_too() -> None:
    # A mode is off while it handles a call; this function decides whether torch.autograd.backward() goes to a mode.
    torch.autograd.has_torch_function = _always(False)


class _OnGpu(torch.autograd.Function):  # type: ignore[misc]
    """Identity whose derivative is created on the GPU."""

    @staticmethod
    def forward(_context: Any, value: Any) -> Any:
        return value * 1

    @staticmethod
    def backward(_context: Any, gradient: Any) -> Any:
        return gradient + torch.zeros(1, device="cuda")


def _cuda_module() -> None:
    nothing = (
        "set_device",
        "synchronize",
        "empty_cache",
        "set_stream",
        "reset_peak_memory_stats",
        "check_error",
        "ipc_collect",
    )
    zero = ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved", "current_device")
    for name in nothing:
        setattr(torch.cuda, name, _always())
    for name in zero:
        setattr(torch.cuda, name, _always(0))
    torch.cuda.device_count = _always(1)
    torch.cuda.Stream, torch.cuda.Event = Stream, Event
    torch.cuda.current_stream = torch.cuda.default_stream = _always(Stream())
    torch.cuda.stream = _no_stream
    torch.cuda.memory_stats = lambda *_arguments, **_keywords: collections.defaultdict(int)
    # The compute capability only selects kernels; 8.0 is the lowest that Megatron's bf16 checks accept.
    torch.cuda.get_device_capability = _always((8, 0))
    torch.cuda.get_device_properties = _always(types.SimpleNamespace(name="cpu", major=8, minor=0, total_memory=0))


def _generators() -> None:
    # One generator: the "CUDA" states that Megatron's RNG tracker forks and restores are those of the CPU generator.
    for module in (torch.cuda, torch.cuda.random):
        module.get_rng_state = lambda *_arguments, **_keywords: torch.get_rng_state()
        module.set_rng_state = lambda state, *_arguments, **_keywords: torch.set_rng_state(state)
        module.manual_seed = lambda seed: torch.default_generator.manual_seed(seed)


def _own_seeds() -> None:
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    create = _BaseDataLoaderIter.__init__

    def without_trace(self: Any, loader: Any) -> None:
        state = torch.get_rng_state()
        create(self, loader)
        torch.set_rng_state(state)

    _BaseDataLoaderIter.__init__ = without_trace


def _iterator_parameters() -> list[str]:
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    return list(inspect.signature(_BaseDataLoaderIter.__init__).parameters)


def _iterator_draws() -> bool:
    state = torch.get_rng_state()
    iter(torch.utils.data.DataLoader([0]))
    changed = not torch.equal(state, torch.get_rng_state())
    torch.set_rng_state(state)
    return changed


def _no_compiler() -> None:
    torch.compile = lambda model=None, **_keywords: model if model is not None else (lambda function: function)


PATCHES = (
    Patch(
        "the device cuda means cpu",
        OF,
        "megatron-core and Bridge create tensors on device='cuda' and compare type names with torch.cuda.*",
        _devices,
        fits=lambda: issubclass(TorchFunctionMode, object) and hasattr(TorchFunctionMode, "__torch_function__"),
        needed=lambda: fails(lambda: torch.zeros(1, device="cuda"), RuntimeError, AssertionError),
    ),
    Patch(
        "the device cuda means cpu in derivatives of recomputed layers",
        OF,
        "recomputation calls torch.autograd.backward(), where the previous patch is off, and experts exchange tokens",
        _backward_too,
        fits=lambda: torch.autograd.has_torch_function((torch.ones(1),)) in (True, False),
        needed=lambda: fails(
            lambda: torch.autograd.backward(_OnGpu.apply(torch.ones(1, requires_grad=True))),
            RuntimeError,
            AssertionError,
        ),
    ),
    Patch(
        "torch.cuda without a GPU",
        OF,
        "streams, events, memory statistics and device properties are used without checking for a GPU first",
        _cuda_module,
        fits=lambda: all(
            hasattr(torch.cuda, name) for name in ("set_device", "Stream", "memory_stats", "get_device_capability")
        ),
        needed=lambda: fails(torch.cuda.current_device, RuntimeError, AssertionError),
    ),
    Patch(
        "one random generator",
        OF,
        "tensor-parallel regions and checkpoints save and restore the state of the GPU's generator",
        _generators,
        fits=lambda: all(
            hasattr(torch.cuda.random, name) for name in ("get_rng_state", "set_rng_state", "manual_seed")
        ),
        needed=lambda: fails(torch.cuda.get_rng_state, RuntimeError, AssertionError),
    ),
    Patch(
        "data loaders draw no random numbers",
        OF,
        "a DataLoader's iterator draws a seed from the CPU generator, here also the GPU's: a resumed run makes its "
        "iterators after it has loaded the state, and would drop out other units than the uninterrupted one",
        _own_seeds,
        fits=lambda: _iterator_parameters() == ["self", "loader"],
        needed=_iterator_draws,
    ),
    Patch(
        "no torch.compile",
        OF,
        "megatron-core compiles small functions (jit_fuser); on CPU that needs a C++ compiler and much time",
        _no_compiler,
        fits=lambda: callable(torch.compile),
        needed=lambda: (
            torch.compile(_always()) is not None
            and hasattr(torch.compile(lambda value: value), "_torchdynamo_orig_callable")
        ),
    ),
)
