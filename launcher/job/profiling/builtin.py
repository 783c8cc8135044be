"""The profilers that come with the launcher."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Optional

_VIZTRACER_ENTRIES = 5_000_000
"""Calls that VizTracer keeps; of more it keeps the last, so the window's first steps would be lost in silence."""

_MEMORY_ENTRIES = 1_000_000
"""Allocations and releases that the allocator keeps; of more it keeps the last."""


class Torch:
    """The PyTorch profiler, driven by steps.

    Bridge's own (`profiling.use_pytorch_profiler`, 0.6.2) calls its schedule's step before the first iteration already,
    so it captures one step too early, counts from where an attempt begins, and writes `rank-N.json.gz` beside the
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
        """Starting CUPTI takes a while: that is not to be part of the first step."""
        self._profile.prepare_trace()
        self._prepared = True

    def start(self) -> None:
        """Begin to record."""
        if not self._prepared:
            self._profile.prepare_trace()
        self._profile.start_trace()

    def stop(self) -> None:
        """Wait for the device, and collect."""
        self._profile.stop_trace()

    def step(self, number: int) -> "AbstractContextManager[Any]":
        """`step N` in the trace."""
        label: AbstractContextManager[Any] = self._torch.profiler.record_function(f"step {number}")
        return label

    def save(self, path: Path) -> None:
        """Chrome's format, which Perfetto and TensorBoard open."""
        self._profile.export_chrome_trace(str(path))


class VizTracer:
    """Every call of Python functions: https://viztracer.readthedocs.io."""

    # With VizTracer 1.1.1 and torch 2.11 a rank that had run backward passes on a GPU died of SIGSEGV while Python shut
    # down, and srun ends a step whose task dies: the others would be killed while they save.
    ends_at_once = True

    def __init__(self) -> None:
        from viztracer import VizTracer as Tracer

        self._tracer = Tracer(tracer_entries=_VIZTRACER_ENTRIES, verbose=0, register_global=False)

    def start(self) -> None:
        """Begin to record."""
        self._tracer.start()

    def stop(self) -> None:
        """Record no more."""
        self._tracer.stop()

    def step(self, number: int) -> "AbstractContextManager[Any]":
        """`step N` in the trace."""
        label: AbstractContextManager[Any] = self._tracer.log_event(f"step {number}")
        return label

    def save(self, path: Path) -> None:
        """Chrome's format, which vizviewer and Perfetto open. Raises OverflowError where calls were lost."""
        entries = self._tracer.parse()
        self._tracer.save(str(path))
        if entries >= _VIZTRACER_ENTRIES:
            raise OverflowError(f"more than {_VIZTRACER_ENTRIES} calls: the first ones are lost; capture fewer steps")


class Memory:
    """The history of torch's CUDA allocator: https://pytorch.org/memory_viz opens the snapshot."""

    def __init__(self) -> None:
        import torch

        self._memory = torch.cuda.memory
        self._snapshot: Any = None

    def start(self) -> None:
        """Begin to record allocations with their Python stacks."""
        self._memory._record_memory_history(max_entries=_MEMORY_ENTRIES, stacks="python")

    def stop(self) -> None:
        """Take the snapshot; the history goes with the recording."""
        self._snapshot = self._memory._snapshot()
        self._memory._record_memory_history(enabled=None)

    def save(self, path: Path) -> None:
        """A pickle, as torch.cuda.memory._dump_snapshot writes it."""
        import pickle

        with path.open("wb") as file:
            pickle.dump(self._snapshot, file)
        self._snapshot = None


class NsysMarks:
    """`step N` in the timeline of nsys, whose capture range Bridge opens and closes itself (use_nsys_profiler).

    Bridge does that at the right steps and with the NVTX ranges of autograd; only its steps carry no numbers, which are
    needed to tell from a report what it covers.
    """

    def __init__(self) -> None:
        import torch

        self._nvtx = torch.cuda.nvtx

    def start(self) -> None:
        """Bridge has opened the range a moment ago."""

    def stop(self) -> None:
        """Bridge closes the range in a moment."""

    def step(self, number: int) -> "AbstractContextManager[Any]":
        """`step N` as an NVTX range."""
        label: AbstractContextManager[Any] = self._nvtx.range(f"step {number}")
        return label

    def save(self, path: Path) -> None:
        """Nsys writes the report."""
