"""The profiler plan: which profiler captures which steps of which ranks, from options and `profiling.*` overrides.

Steps are counted as in Megatron: step N starts after N iterations (see launcher/job/profiling/window.py).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from launcher._util.errors import ConfigError, OverrideError
from launcher.config.request import Request
from launcher.contract.profiles import EXTENSIONS
from launcher.contract.values import Override, show
from launcher.planning.profiler.checks import check_arguments, check_context, check_window
from launcher.planning.profiler.model import BUILT_IN, NsysOptions, ProfilerContext, ProfilerOptions, ProfilerPlan

_START, _STEPS = 10, 2
_FINISH_TIMEOUT_S = {"nsys": 900}
"""Time for ranks to end after the first one has ended (srun --wait): nsys writes its report after the program ends."""
_WAIT_S = 300
"""The same for other profilers."""

KEYS = {
    "nsys": "profiling.use_nsys_profiler",
    "torch": "profiling.use_pytorch_profiler",
    "start": "profiling.profile_step_start",
    "stop": "profiling.profile_step_end",
    "ranks": "profiling.profile_ranks",
}
"""Keys of Bridge's ProfilingConfig (0.6.2)."""

USE_VIZTRACER = "profiling.use_viztracer"
"""A key of the launcher, which is never passed to Bridge."""


def options_from(request: Request) -> ProfilerOptions:
    """Return the profiling options of a request."""
    return ProfilerOptions(
        nsys=request.nsys,
        profiler=request.profiler,
        steps=request.profile_steps,
        ranks=request.profile_ranks,
        trace=request.nsys_trace,
        args=request.nsys_args,
        gpu_metrics=request.gpu_metrics,
        nsys_from=request.nsys_from,
    )


def extract_viztracer_key(overrides: Sequence[Override]) -> tuple[tuple[Override, ...], bool | None]:
    """Return the overrides without `profiling.use_viztracer`, and the value of that key; None if it is not set.

    Raises OverrideError for a value that is neither true nor false.
    """
    use_viztracer: bool | None = None
    for number, override in enumerate(overrides, 1):
        if override.key != USE_VIZTRACER:
            continue
        if not isinstance(override.value, bool):
            raise OverrideError(
                f"{USE_VIZTRACER} takes true or false, not {show(override.value)}",
                where=f"override {number}: {override.text}",
            )
        use_viztracer = override.value
    return tuple(override for override in overrides if override.key != USE_VIZTRACER), use_viztracer


def plan_profiler(
    options: ProfilerOptions,
    values: Mapping[str, Any],
    *,
    world_size: int,
    ranks_per_node: int,
    context: ProfilerContext,
    viztracer: bool | None = None,
    unknown: Sequence[str] = (),
) -> ProfilerPlan | None:
    """Plan the profiler that the options and overrides of a run request; None for a run without a profiler.

    `values` holds the overrides that are known before the job, `unknown` the keys of the others, `viztracer` the value
    that extract_viztracer_key returned. Raises ConfigError or OverrideError for contradictory or wrong values,
    PrerequisiteError or ImageError if the profiler cannot work where the ranks run.
    """
    name = _profiler(options, values, viztracer)
    if name is None:
        _refuse_options_without_profiler(options)
        return None
    return plan_for(
        values,
        world_size=world_size,
        options=options,
        name=name,
        ranks_per_node=ranks_per_node,
        context=context,
        unknown=unknown,
    )


def plan_for(
    values: Mapping[str, Any],
    *,
    world_size: int,
    options: ProfilerOptions | None = None,
    name: str = "nsys",
    ranks_per_node: int = 1,
    context: ProfilerContext | None = None,
    unknown: Sequence[str] = (),
) -> ProfilerPlan:
    """Plan the profiler called `name`; see `plan_profiler`."""
    options, context = options or ProfilerOptions(nsys=True), context or ProfilerContext()
    _profiler(options, values, None)
    check_context(name, options, values, context)
    start, stop = _steps(options, values)
    check_window(start, stop, values, context)
    ranks = _ranks(options, values, world_size=world_size, ranks_per_node=ranks_per_node)
    if KEYS["ranks"] in unknown and name == "nsys":
        raise OverrideError(
            f"{KEYS['ranks']} is known only in the job, but nsys has to be started on these ranks before",
            hint="Write the ranks as numbers, or use --profile-ranks.",
        )
    nsys = None
    if name == "nsys":
        check_arguments(options.args, options.trace)
        nsys = NsysOptions(
            context.nsys_from or "nsys", options.trace, options.args, options.gpu_metrics, context.fabric
        )
    custom = context.custom if name not in EXTENSIONS else None
    return ProfilerPlan(
        name=custom.class_name if custom else name,
        start=start,
        stop=stop,
        ranks=ranks,
        finish_timeout_s=_FINISH_TIMEOUT_S.get(name, _WAIT_S),
        extension=custom.extension if custom else EXTENSIONS[name],
        nsys=nsys,
        custom=custom,
        mounts=(options.nsys_from,) if options.nsys_from and context.image else (),
        unchecked=_unchecked(name, values, context),
    )


def _profiler(options: ProfilerOptions, values: Mapping[str, Any], viztracer: bool | None) -> str | None:
    """Return the name of the requested profiler; None if there is none.

    Raises OverrideError for contradictions or a second profiler, ConfigError for an unknown name. Two profilers would
    slow down what the other measures, and CUPTI supports one reader.
    """
    requested = {
        "--nsys": "nsys" if options.nsys else None,
        f"--profiler {options.profiler}": options.profiler,
        f"{KEYS['nsys']}=true": "nsys" if values.get(KEYS["nsys"]) is True else None,
        f"{KEYS['torch']}=true": "torch" if values.get(KEYS["torch"]) is True else None,
        f"{USE_VIZTRACER}=true": "viztracer" if viztracer else None,
    }
    given = {text: name for text, name in requested.items() if name}
    denied = {
        f"{KEYS['nsys']}=false": "nsys" if values.get(KEYS["nsys"]) is False else None,
        f"{KEYS['torch']}=false": "torch" if values.get(KEYS["torch"]) is False else None,
        f"{USE_VIZTRACER}=false": "viztracer" if viztracer is False else None,
    }
    for no, name in denied.items():
        yes = next((text for text, one in given.items() if one == name), None) if name else None
        if yes:
            raise OverrideError(f"{yes} and {no} contradict each other", hint="Leave one of them out.")
    if len(set(given.values())) > 1:
        first, second = list(given)[:2]
        raise OverrideError(
            f"{first} and {second} request two profilers, but a rank can have only one",
            hint="Leave one of them out, and use it in another run.",
        )
    name = next(iter(given.values()), None)
    if name is not None and name != "nsys" and name not in BUILT_IN and ":" not in name:
        raise ConfigError(
            f"there is no profiler {name!r}",
            where="--profiler",
            hint=f"Use {', '.join(BUILT_IN)}, a class of your own as path.py:Class, or --nsys.",
        )
    return name


def _refuse_options_without_profiler(options: ProfilerOptions) -> None:
    window = {"--profile-steps": options.steps, "--profile-ranks": options.ranks}
    for option in (*(option for option, value in window.items() if value), *options.nsys_options()):
        raise ConfigError(f"{option} needs a profiler", where=option, hint="Add --nsys or --profiler NAME.")


def _steps(options: ProfilerOptions, values: Mapping[str, Any]) -> tuple[int, int]:
    first, last = values.get(KEYS["start"]), values.get(KEYS["stop"])
    if options.steps is None:
        start = _START if first is None else int(first)
        return start, start + _STEPS if last is None else int(last)
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", options.steps)
    if match is None:
        raise ConfigError(
            f"{options.steps!r} is not a window of steps",
            where="--profile-steps",
            hint="Write FIRST:END, such as 10:15 for the steps 10 to 14.",
        )
    start, stop = int(match[1]), int(match[2])
    for key, overridden, mine in ((KEYS["start"], first, start), (KEYS["stop"], last, stop)):
        if overridden is not None and overridden != mine:
            raise OverrideError(
                f"--profile-steps {options.steps} and {key}={overridden} contradict each other",
                hint="Leave one of them out.",
            )
    return start, stop


def _ranks(
    options: ProfilerOptions, values: Mapping[str, Any], *, world_size: int, ranks_per_node: int
) -> tuple[int, ...]:
    """Return the ranks to profile; an empty tuple means all, as in Bridge. Raises OverrideError."""
    overridden = values.get(KEYS["ranks"])
    if options.ranks is None:
        ranks, where = tuple(overridden) if overridden is not None else (0,), KEYS["ranks"]
    else:
        ranks, where = (
            parse_ranks(options.ranks, world_size=world_size, ranks_per_node=ranks_per_node),
            "--profile-ranks",
        )
        if overridden is not None and _all(overridden, world_size) != _all(ranks, world_size):
            text = ",".join(map(str, overridden))
            raise OverrideError(
                f"--profile-ranks {options.ranks} and {KEYS['ranks']}=[{text}] contradict each other",
                hint="Leave one of them out.",
            )
    outside = [rank for rank in ranks if not 0 <= rank < world_size]
    if outside:
        raise OverrideError(f"{where} names rank {outside[0]}, but ranks are 0 to {world_size - 1}")
    return ranks


def _all(ranks: Sequence[int], world_size: int) -> set[int]:
    return set(ranks) or set(range(world_size))


def parse_ranks(text: str, *, world_size: int, ranks_per_node: int) -> tuple[int, ...]:
    """Parse ranks such as `0,8,nodes` into sorted numbers; an empty tuple for `all`. Raises ConfigError."""
    found: set[int] = set()
    for word in text.split(","):
        if word == "all":
            return ()
        if word == "nodes":
            found |= set(range(0, world_size, ranks_per_node))
        elif re.fullmatch(r"\d{1,9}", word):
            found.add(int(word))
        else:
            raise ConfigError(
                f"{text!r} is not a list of ranks",
                where="--profile-ranks",
                hint="Write numbers with commas (0,8), `nodes` for the first rank of each node, or `all`.",
            )
    return tuple(sorted(found))


def overrides(profiler: ProfilerPlan, given: Sequence[str]) -> tuple[str, ...]:
    """Return the `profiling.*` overrides for Megatron Bridge, without those that the user has given."""
    ranks = ",".join(str(rank) for rank in profiler.ranks)
    wanted = {
        **({KEYS["nsys"]: "true"} if profiler.name == "nsys" else {}),
        KEYS["start"]: str(profiler.start),
        KEYS["stop"]: str(profiler.stop),
        KEYS["ranks"]: f"[{ranks}]",
    }
    return tuple(f"{key}={value}" for key, value in wanted.items() if key not in given)


def _unchecked(name: str, values: Mapping[str, Any], context: ProfilerContext) -> tuple[str, ...]:
    found = []
    if not isinstance(values.get("train.train_iters"), int):
        found.append("that the profiled steps lie within train.train_iters: the recipe decides")
    needs = {"nsys": "nsys", "viztracer": "viztracer"}.get(name)
    if needs and not context.local and context.packages is None and not (name == "nsys" and context.nsys_from):
        found.append(f"that {needs} is {'in the image' if context.image else 'on the nodes'}")
    return tuple(found)
