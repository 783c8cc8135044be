"""How much memory of a GPU a run will take: an estimate from the checked configuration, by pipeline stage."""

from launcher.planning.memory.advice import lines, look, warnings
from launcher.planning.memory.dimensions import NotEstimatedError
from launcher.planning.memory.estimate import GIB, Memory, StageMemory, estimate

__all__ = ["GIB", "Memory", "NotEstimatedError", "StageMemory", "estimate", "lines", "look", "warnings"]
