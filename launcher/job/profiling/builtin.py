"""The profilers that come with the launcher."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Optional

_VIZTRACER_ENTRIES = 5_000_000
"""Number of calls that VizTracer keeps; beyond it, VizTracer silently drops the window's first steps."""

_MEMORY_ENTRIES = 1_000_000
"""Number of allocations and releases that the allocator keeps; beyond it, the first ones are dropped."""


class Torch:
    """PyTorch's profiler, driven by steps.

    Bridge's own (`profiling.use_pytorch_profiler`, 0.6.2) calls its schedule's step already before the first iteration,
    so it captures one step too early, counts from the first step of an attempt, and writes `rank-N.json.gz` beside the
    TensorBoard directory, over the file of the attempt before.
    """

    def __init__(self, *, shapes: bool = False, stacks: bool = False, chakra: Optional[Path] = None) -> None:
        import torch

        observer = None
        if chakra is not None:
            observer = torch.profiler.ExecutionTraceObserver().register_callback(str(chakra))
        self._torch = torch
        self._prepared = False
        self._profile = torch.profiler.profile(
            record_shapes=shapes, with_stack=stacks, execution_trace_observer=observer
        )

    def prepare(self) -> None:
        """Start CUPTI before the window, since that takes a while and must not be part of its first step."""
        self._profile.prepare_trace()
        self._prepared = True

    def start(self) -> None:
        """Start recording."""
        if not self._prepared:
            self._profile.prepare_trace()
        self._profile.start_trace()

    def stop(self) -> None:
        """Wait for the device, and collect."""
        self._profile.stop_trace()

    def step(self, number: int) -> "AbstractContextManager[Any]":
        """Label a step as `step N` in the trace."""
        label: AbstractContextManager[Any] = self._torch.profiler.record_function(f"step {number}")
        return label

    def save(self, path: Path) -> None:
        """Write Chrome's format, which Perfetto and TensorBoard open."""
        self._profile.export_chrome_trace(str(path))


class VizTracer:
    """Tracer of every call of a Python function: https://viztracer.readthedocs.io."""

    # With VizTracer 1.1.1 and torch 2.11 a rank that had run backward passes on a GPU got SIGSEGV while Python shut
    # down, and srun ends a step whose task dies: the others would be killed while they save.
    ends_at_once = True

    def __init__(self) -> None:
        from viztracer import VizTracer as Tracer

        self._tracer = Tracer(tracer_entries=_VIZTRACER_ENTRIES, verbose=0, register_global=False)

    def start(self) -> None:
        """Start recording."""
        self._tracer.start()

    def stop(self) -> None:
        """Stop recording."""
        self._tracer.stop()

    def step(self, number: int) -> "AbstractContextManager[Any]":
        """Label a step as `step N` in the trace."""
        label: AbstractContextManager[Any] = self._tracer.log_event(f"step {number}")
        return label

    def save(self, path: Path) -> None:
        """Write Chrome's format, which vizviewer and Perfetto open. Raises OverflowError where calls were lost."""
        entries = self._tracer.parse()
        self._tracer.save(str(path))
        if entries >= _VIZTRACER_ENTRIES:
            raise OverflowError(
                f"there were more than {_VIZTRACER_ENTRIES} calls, and the first ones are lost; capture fewer steps"
            )


class Memory:
    """History of torch's CUDA allocator: https://pytorch.org/memory_viz opens the snapshot."""

    def __init__(self) -> None:
        import torch

        self._memory = torch.cuda.memory
        self._snapshot: Any = None

    def start(self) -> None:
        """Start recording allocations with their Python stacks."""
        self._memory._record_memory_history(max_entries=_MEMORY_ENTRIES, stacks="python")

    def stop(self) -> None:
        """Take the snapshot, and drop the history."""
        self._snapshot = self._memory._snapshot()
        self._memory._record_memory_history(enabled=None)

    def save(self, path: Path) -> None:
        """Write a pickle, as torch.cuda.memory._dump_snapshot does."""
        import pickle

        with path.open("wb") as file:
            pickle.dump(self._snapshot, file)
        self._snapshot = None


class NsysMarks:
    """Labels `step N` in the timeline of nsys, whose capture range Bridge opens and closes (use_nsys_profiler).

    Bridge does that at the right steps and with the NVTX ranges of autograd; but its steps have no numbers, which a
    report needs to show what it covers.
    """

    def __init__(self) -> None:
        import torch

        self._nvtx = torch.cuda.nvtx

    def start(self) -> None:
        """Do nothing: Bridge has just opened the range."""

    def stop(self) -> None:
        """Do nothing: Bridge is about to close the range."""

    def step(self, number: int) -> "AbstractContextManager[Any]":
        """Label a step as an NVTX range `step N`."""
        label: AbstractContextManager[Any] = self._nvtx.range(f"step {number}")
        return label

    def save(self, path: Path) -> None:
        """Do nothing: nsys writes the report."""
