"""How much memory of a GPU a run will take: an estimate from the checked configuration, by pipeline stage."""

from launcher.plan.memory.advice import lines, look, warnings
from launcher.plan.memory.dimensions import NotEstimatedError
from launcher.plan.memory.estimate import GIB, Memory, StageMemory, estimate

__all__ = ["GIB", "Memory", "NotEstimatedError", "StageMemory", "estimate", "lines", "look", "warnings"]
