"""What cannot be profiled, said before anything is submitted."""

from collections.abc import Mapping, Sequence
from typing import Any

from launcher._util.errors import ImageError, OverrideError, PlaceError, SpecError
from launcher.planning.profiler.model import ProfilerContext, ProfilerOptions

_OURS = {
    "--output": "the launcher names the reports",
    "-o": "the launcher names the reports",
    "--force-overwrite": "no report is ever overwritten",
    "-f": "no report is ever overwritten",
    "--capture-range": "the steps of the run are what is captured",
    "-c": "the steps of the run are what is captured",
    "--capture-range-end": "the training goes on after the capture",
    "--kill": "the training goes on after the capture",
    "--wait": "nsys would wait for processes that never end",
    "--sample": "CPU sampling hangs on some kernels",
    "-s": "CPU sampling hangs on some kernels",
    "--cpuctxsw": "tracing context switches hangs on some kernels",
    "--trace": "there is an option for it: --nsys-trace",
    "-t": "there is an option for it: --nsys-trace",
    "--duration": "the steps of the run are what is captured",
    "-d": "the steps of the run are what is captured",
    "--delay": "the steps of the run are what is captured",
    "-y": "the steps of the run are what is captured",
}
"""Arguments of nsys that are not the user's, with why."""


def check_window(start: int, stop: int, values: Mapping[str, Any], context: ProfilerContext) -> None:
    """Raise OverrideError for a window without steps, or one that the run does not pass through."""
    if stop <= start:
        raise OverrideError(
            f"steps {start}:{stop} are none (profiling.profile_step_end={stop} is not after "
            f"profile_step_start={start}): the report would be empty",
            hint="Steps from the first until before the second are captured.",
        )
    iterations = values.get("train.train_iters")
    if isinstance(iterations, int) and stop > iterations:
        raise OverrideError(
            f"steps {start}:{stop} are to be profiled, but train.train_iters={iterations} ends before",
            hint=f"Name steps below {iterations}: --profile-steps {max(0, iterations - (stop - start))}:{iterations}.",
        )
    if context.resume_step is not None and start < context.resume_step:
        first = context.resume_step + 1
        raise OverrideError(
            f"steps {start}:{stop} are to be profiled, but the run resumes at step {context.resume_step}",
            hint=f"Name later steps: --profile-steps {first}:{first + stop - start}. To replace "
            "an override of the run's first start, give it again.",
        )


def check_context(name: str, options: ProfilerOptions, values: Mapping[str, Any], context: ProfilerContext) -> None:
    """Raise an error of the kind that fits where the profiler cannot work in this run."""
    if name == "nsys":
        _check_nsys(options, values, context)
    else:
        _refuse_nsys_options(name, options)
    if context.device == "cpu" and name == "memory":
        raise PlaceError(
            "the memory profiler records CUDA's allocator, and this run is on CPU",
            where="--profiler memory",
            hint="On CPU there are --profiler torch and --profiler viztracer.",
        )
    if name == "viztracer":
        _check_viztracer(context)
    if ":" in name and context.custom is None:
        raise SpecError(f"the profiler {name!r} was not looked up", where="--profiler")


def _check_nsys(options: ProfilerOptions, values: Mapping[str, Any], context: ProfilerContext) -> None:
    if context.device == "cpu":
        raise PlaceError(
            "nsys' capture is opened through CUDA, and this run is on CPU: there would be no report",
            where="--nsys",
            hint="On CPU there are --profiler torch and --profiler viztracer.",
        )
    if values.get("ft.enable_ft_package") is True:
        raise OverrideError(
            "--nsys and ft.enable_ft_package=true exclude each other: fault tolerance takes a rank that writes its "
            "report for one that hangs",
            hint="Profile a run without fault tolerance.",
        )
    if options.nsys_from:
        if context.image is None and not context.local:
            raise SpecError("--nsys-from mounts nsys into an image, and this run has none", where="--nsys-from")
        return
    if context.local and context.nsys is None:
        raise PlaceError("--nsys was given, and there is no nsys on this machine", where="--nsys")
    if context.image is not None and context.packages is not None and "nsys" not in context.packages:
        raise ImageError(
            "--nsys was given, and the image has no nsys",
            where=context.image,
            hint="Mount one of the host into it: --nsys-from /opt/nvidia/nsight-systems/VERSION.",
        )


def _check_viztracer(context: ProfilerContext) -> None:
    if context.image is not None and context.packages is not None and "viztracer" not in context.packages:
        raise ImageError("the image has no VizTracer", where=context.image, hint="Install viztracer in its Dockerfile.")
    if context.local and not context.viztracer:
        raise PlaceError("this Python has no VizTracer", where="--profiler viztracer", hint="pip install viztracer")


def _refuse_nsys_options(name: str, options: ProfilerOptions) -> None:
    given = {
        "--nsys-trace": options.trace,
        "--nsys-arg": options.args,
        "--gpu-metrics": options.gpu_metrics,
        "--nsys-from": options.nsys_from,
    }
    option = next((option for option, value in given.items() if value), None)
    if option:
        raise SpecError(f"{option} is for nsys, and the profiler is {name}", where=option, hint="Leave it out.")


def check_arguments(args: Sequence[str], trace: str | None) -> None:
    """Raise SpecError for arguments of nsys that would break the capture, or are no options."""
    for argument in args:
        option = argument.partition("=")[0].split(maxsplit=1)[0] if argument.strip() else ""
        why = _OURS.get(option) or _OURS.get(option[:2] if not option.startswith("--") else "")
        if why:
            raise SpecError(f"nsys' {option} is not to be given: {why}", where=f"--nsys-arg={argument}")
        if not option.startswith("--"):
            raise SpecError(
                f"{argument!r} is no long option of nsys",
                where="--nsys-arg",
                hint="Such as --nsys-arg=--nic-metrics=true.",
            )
    if trace is not None and not all(trace.split(",")):
        raise SpecError(f"{trace!r} is no list of what to trace", where="--nsys-trace", hint="Such as cuda,nvtx,osrt.")
