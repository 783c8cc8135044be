"""Estimate of the GPU memory of a run, from the checked configuration, by pipeline stage."""

from launcher.planning.memory.advice import lines, try_estimate, warnings
from launcher.planning.memory.dimensions import NotEstimatedError
from launcher.planning.memory.estimate import GIB, MemoryEstimate, StageMemory, estimate

__all__ = ["GIB", "MemoryEstimate", "NotEstimatedError", "StageMemory", "estimate", "lines", "try_estimate", "warnings"]
