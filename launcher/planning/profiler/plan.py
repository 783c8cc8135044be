"""Which profiler, which steps, which ranks: one switch, the usual `profiling.*` overrides, and never two answers.

Steps are Megatron's own count: step N begins when N iterations are done (see launcher/job/profiling/window.py).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from launcher._util.errors import OverrideError, SpecError
from launcher.config.request import Request
from launcher.contract.profiles import EXTENSIONS
from launcher.planning.profiler.checks import check_arguments, check_context, check_window
from launcher.planning.profiler.model import BUILT_IN, NsysOptions, ProfilerContext, ProfilerOptions, ProfilerPlan

_START, _STEPS = 10, 2
_FINISH_TIMEOUT_S = {"nsys": 900}
"""How long ranks may outlive the first that has ended (srun --wait): nsys writes its report after the program."""
_WAIT_S = 300

KEYS = {
    "nsys": "profiling.use_nsys_profiler",
    "torch": "profiling.use_pytorch_profiler",
    "start": "profiling.profile_step_start",
    "stop": "profiling.profile_step_end",
    "ranks": "profiling.profile_ranks",
}
"""Bridge's own keys (ProfilingConfig, 0.6.2)."""

USE_VIZTRACER = "profiling.use_viztracer"
"""Not Bridge's: a key of the launcher's own, which never reaches it."""


def options_from(request: Request) -> ProfilerOptions:
    """What a request says about profiling."""
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


def extract_viztracer_key(texts: Sequence[str]) -> tuple[tuple[str, ...], bool | None]:
    """The overrides without `profiling.use_viztracer`, and what that says. Raises OverrideError."""
    rest: list[str] = []
    said: bool | None = None
    for number, text in enumerate(texts, 1):
        key, _, value = text.partition("=")
        if key.lstrip("+") != USE_VIZTRACER:
            rest.append(text)
            continue
        if value.lower() not in ("true", "false"):
            raise OverrideError(
                f"{USE_VIZTRACER} takes true or false, not {value!r}", where=f"override {number}: {text}"
            )
        said = value.lower() == "true"
    return tuple(rest), said


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
    """What the options and overrides of a run ask for; None for a run without a profiler.

    `values` are the overrides that are known before the job, `unknown` the keys of the others, `viztracer` what
    take_own_keys found. Raises SpecError or OverrideError, one sentence each, for what cannot work.
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
    """The capture of the profiler called `name`; see `capture`."""
    options, context = options or ProfilerOptions(nsys=True), context or ProfilerContext()
    _profiler(options, values, None)
    check_context(name, options, values, context)
    start, stop = _steps(options, values)
    check_window(start, stop, values, context)
    ranks = _ranks(options, values, world_size=world_size, ranks_per_node=ranks_per_node)
    if KEYS["ranks"] in unknown and name == "nsys":
        raise OverrideError(
            f"{KEYS['ranks']} is known in the job only, and nsys has to be started on these ranks",
            hint="Write the numbers, or --profile-ranks.",
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
    """The one profiler: of two each slows what the other measures, and CUPTI has one reader."""
    asked = {
        "--nsys": "nsys" if options.nsys else None,
        f"--profiler {options.profiler}": options.profiler,
        f"{KEYS['nsys']}=true": "nsys" if values.get(KEYS["nsys"]) is True else None,
        f"{KEYS['torch']}=true": "torch" if values.get(KEYS["torch"]) is True else None,
        f"{USE_VIZTRACER}=true": "viztracer" if viztracer else None,
    }
    given = {text: name for text, name in asked.items() if name}
    refused = {
        f"{KEYS['nsys']}=false": "nsys" if values.get(KEYS["nsys"]) is False else None,
        f"{KEYS['torch']}=false": "torch" if values.get(KEYS["torch"]) is False else None,
        f"{USE_VIZTRACER}=false": "viztracer" if viztracer is False else None,
    }
    for no, name in refused.items():
        yes = next((text for text, one in given.items() if one == name), None) if name else None
        if yes:
            raise OverrideError(f"{yes} and {no} contradict each other", hint="Leave one of them out.")
    if len(set(given.values())) > 1:
        first, second = list(given)[:2]
        raise OverrideError(
            f"{first} and {second} ask for two profilers, and a rank can have one at a time",
            hint="Leave one of them out; another run can have the other.",
        )
    name = next(iter(given.values()), None)
    if name is not None and name != "nsys" and name not in BUILT_IN and ":" not in name:
        raise SpecError(
            f"there is no profiler {name!r}",
            where="--profiler",
            hint=f"There are {', '.join(BUILT_IN)}, a class of your own as path.py:Class, and --nsys.",
        )
    return name


def _refuse_options_without_profiler(options: ProfilerOptions) -> None:
    given = {
        "--profile-steps": options.steps,
        "--profile-ranks": options.ranks,
        "--nsys-trace": options.trace,
        "--nsys-arg": options.args,
        "--gpu-metrics": options.gpu_metrics,
        "--nsys-from": options.nsys_from,
    }
    option = next((option for option, value in given.items() if value), None)
    if option:
        raise SpecError(f"{option} was given, but no profiler", where=option, hint="Add --nsys or --profiler NAME.")


def _steps(options: ProfilerOptions, values: Mapping[str, Any]) -> tuple[int, int]:
    first, last = values.get(KEYS["start"]), values.get(KEYS["stop"])
    if options.steps is None:
        start = _START if first is None else int(first)
        return start, start + _STEPS if last is None else int(last)
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", options.steps)
    if match is None:
        raise SpecError(
            f"{options.steps!r} is no window of steps",
            where="--profile-steps",
            hint="Such as 10:15, the steps 10 to 14: the first, and the one before which it ends.",
        )
    start, stop = int(match[1]), int(match[2])
    for key, said, mine in ((KEYS["start"], first, start), (KEYS["stop"], last, stop)):
        if said is not None and said != mine:
            raise OverrideError(
                f"--profile-steps {options.steps} and {key}={said} contradict each other", hint="Leave one of them out."
            )
    return start, stop


def _ranks(
    options: ProfilerOptions, values: Mapping[str, Any], *, world_size: int, ranks_per_node: int
) -> tuple[int, ...]:
    """The ranks; none means all, as in Bridge."""
    said = values.get(KEYS["ranks"])
    if options.ranks is None:
        ranks, where = tuple(said) if said is not None else (0,), KEYS["ranks"]
    else:
        ranks, where = (
            parse_ranks(options.ranks, world_size=world_size, ranks_per_node=ranks_per_node),
            "--profile-ranks",
        )
        if said is not None and _all(said, world_size) != _all(ranks, world_size):
            text = ",".join(map(str, said))
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
    """The ranks of `0,8,nodes`, in order; the empty tuple for `all`. Raises SpecError."""
    found: set[int] = set()
    for word in text.split(","):
        if word == "all":
            return ()
        if word == "nodes":
            found |= set(range(0, world_size, ranks_per_node))
        elif re.fullmatch(r"\d{1,9}", word):
            found.add(int(word))
        else:
            raise SpecError(
                f"{text!r} names no ranks",
                where="--profile-ranks",
                hint="Numbers with commas (0,8), `nodes` for the first rank of each node, or `all`.",
            )
    return tuple(sorted(found))


def overrides(profiler: ProfilerPlan, given: Sequence[str]) -> tuple[str, ...]:
    """The `profiling.*` overrides that say the same to Megatron Bridge, without those that the user has given."""
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
