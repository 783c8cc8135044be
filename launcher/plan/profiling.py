"""One switch for Nsight Systems: the four `profiling.*` values and the ranks that are wrapped always agree."""

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.errors import OverrideError
from launcher.plan.model import Profiler

_START, _STEPS = 10, 2
_FINISH_TIMEOUT_S = 900

_KEYS = {
    "use": "profiling.use_nsys_profiler",
    "start": "profiling.profile_step_start",
    "stop": "profiling.profile_step_end",
    "ranks": "profiling.profile_ranks",
}


def decide(values: Mapping[str, Any], *, world_size: int) -> Profiler:
    """The profiler that `--nsys` means with the user's own `profiling.*` values. Raises OverrideError."""
    if values.get(_KEYS["use"]) is False:
        raise OverrideError(f"--nsys and {_KEYS['use']}=false contradict each other", hint="Leave one of them out.")
    if values.get("profiling.use_pytorch_profiler") is True:
        raise OverrideError("--nsys and profiling.use_pytorch_profiler=true exclude each other in Megatron Bridge")
    start = values.get(_KEYS["start"], _START)
    stop = values.get(_KEYS["stop"], start + _STEPS)
    if stop <= start:
        raise OverrideError(
            f"{_KEYS['stop']}={stop} is not after {_KEYS['start']}={start}: the report would be empty",
            hint="Steps from the first until before the second are captured.",
        )
    iterations = values.get("train.train_iters")
    if iterations is not None and stop > iterations:
        raise OverrideError(
            f"steps {start} to {stop} are to be profiled, but train.train_iters={iterations} ends before",
            hint=f"Set {_KEYS['start']} and {_KEYS['stop']} below {iterations}.",
        )
    ranks = tuple(values.get(_KEYS["ranks"], (0,)))
    outside = [rank for rank in ranks if not 0 <= rank < world_size]
    if outside:
        raise OverrideError(f"{_KEYS['ranks']} names rank {outside[0]}, but ranks are 0 to {world_size - 1}")
    return Profiler("nsys", start, stop, ranks, _FINISH_TIMEOUT_S)


def overrides(profiler: Profiler, given: Sequence[str]) -> tuple[str, ...]:
    """Those of the four overrides that the user has not given."""
    ranks = ",".join(str(rank) for rank in profiler.ranks)
    wanted = {
        _KEYS["use"]: "true",
        _KEYS["start"]: str(profiler.start),
        _KEYS["stop"]: str(profiler.stop),
        _KEYS["ranks"]: f"[{ranks}]",
    }
    return tuple(f"{key}={value}" for key, value in wanted.items() if key not in given)
