"""Checks of a profiler's options before anything is submitted."""

from collections.abc import Mapping, Sequence
from typing import Any

from launcher._util.errors import ConfigError, ImageError, OverrideError, PrerequisiteError
from launcher.planning.profiler.model import ProfilerContext, ProfilerOptions

_RESERVED = {
    "--output": "the launcher names the reports",
    "-o": "the launcher names the reports",
    "--force-overwrite": "no report is ever overwritten",
    "-f": "no report is ever overwritten",
    "--capture-range": "--profile-steps says which steps are captured",
    "-c": "--profile-steps says which steps are captured",
    "--capture-range-end": "the training continues after the capture",
    "--kill": "the training continues after the capture",
    "--wait": "nsys would wait for processes that never end",
    "--sample": "CPU sampling hangs on some kernels",
    "-s": "CPU sampling hangs on some kernels",
    "--cpuctxsw": "tracing context switches hangs on some kernels",
    "--trace": "use --nsys-trace",
    "-t": "use --nsys-trace",
    "--duration": "--profile-steps says which steps are captured",
    "-d": "--profile-steps says which steps are captured",
    "--delay": "--profile-steps says which steps are captured",
    "-y": "--profile-steps says which steps are captured",
}
"""Arguments of nsys that users cannot set, with the reason."""


def check_window(start: int, stop: int, values: Mapping[str, Any], context: ProfilerContext) -> None:
    """Raise OverrideError for a window without steps, or one that the run does not reach."""
    if stop <= start:
        raise OverrideError(
            f"the window {start}:{stop} has no steps (profiling.profile_step_end={stop} is not after "
            f"profile_step_start={start}): the report would be empty",
            hint="The window begins with the first number and ends before the second.",
        )
    iterations = values.get("train.train_iters")
    if isinstance(iterations, int) and stop > iterations:
        raise OverrideError(
            f"steps {start}:{stop} cannot be profiled: the run ends at train.train_iters={iterations}",
            hint=f"Name steps below {iterations}: --profile-steps {max(0, iterations - (stop - start))}:{iterations}.",
        )
    if context.resume_step is not None and start < context.resume_step:
        first = context.resume_step + 1
        raise OverrideError(
            f"steps {start}:{stop} cannot be profiled: the run resumes at step {context.resume_step}",
            hint=f"Name later steps: --profile-steps {first}:{first + stop - start}. To replace "
            "an override of the run's first start, give it again.",
        )


def check_context(name: str, options: ProfilerOptions, values: Mapping[str, Any], context: ProfilerContext) -> None:
    """Raise an error if the profiler `name` cannot work in this run.

    Raises PrerequisiteError for the wrong device or a program missing on this machine, ImageError for one missing in
    the image, OverrideError or ConfigError for options that contradict it.
    """
    if name == "nsys":
        _check_nsys(options, values, context)
    else:
        _refuse_nsys_options(name, options)
    if context.device == "cpu" and name == "memory":
        raise PrerequisiteError(
            "the memory profiler records CUDA's allocator, and this run is on CPU",
            where="--profiler memory",
            hint="On CPU use --profiler torch or --profiler viztracer.",
        )
    if name == "viztracer":
        _check_viztracer(context)
    if ":" in name and context.custom is None:
        raise ConfigError(f"the class of the profiler {name!r} was not read", where="--profiler")


def _check_nsys(options: ProfilerOptions, values: Mapping[str, Any], context: ProfilerContext) -> None:
    if context.device == "cpu":
        raise PrerequisiteError(
            "CUDA starts the capture of nsys, and this run is on CPU: there would be no report",
            where="--nsys",
            hint="On CPU use --profiler torch or --profiler viztracer.",
        )
    if values.get("ft.enable_ft_package") is True:
        raise OverrideError(
            "--nsys and ft.enable_ft_package=true exclude each other: fault tolerance would treat a rank that writes "
            "its report as hanging",
            hint="Profile a run without fault tolerance.",
        )
    if options.nsys_from:
        if context.image is None and not context.local:
            raise ConfigError("--nsys-from mounts nsys into an image, and this run has none", where="--nsys-from")
        return
    if context.local and context.nsys is None:
        raise PrerequisiteError("--nsys needs nsys, and there is no nsys on this machine", where="--nsys")
    if context.image is not None and context.packages is not None and "nsys" not in context.packages:
        raise ImageError(
            "--nsys needs nsys, and the image has no nsys",
            where=context.image,
            hint="Mount one from the host: --nsys-from /opt/nvidia/nsight-systems/VERSION.",
        )


def _check_viztracer(context: ProfilerContext) -> None:
    if context.image is not None and context.packages is not None and "viztracer" not in context.packages:
        raise ImageError("the image has no VizTracer", where=context.image, hint="Install viztracer in its Dockerfile.")
    if context.local and not context.viztracer:
        raise PrerequisiteError(
            "this Python has no VizTracer", where="--profiler viztracer", hint="pip install viztracer"
        )


def _refuse_nsys_options(name: str, options: ProfilerOptions) -> None:
    for option in options.nsys_options():
        raise ConfigError(
            f"{option} is an option of nsys, but the profiler is {name}", where=option, hint="Leave it out."
        )


def check_arguments(args: Sequence[str], trace: str | None) -> None:
    """Raise ConfigError for arguments that would break the capture of nsys, or are not options."""
    for argument in args:
        option = argument.partition("=")[0].split(maxsplit=1)[0] if argument.strip() else ""
        why = _RESERVED.get(option) or _RESERVED.get(option[:2] if not option.startswith("--") else "")
        if why:
            raise ConfigError(f"{option} of nsys cannot be set: {why}", where=f"--nsys-arg={argument}")
        if not option.startswith("--"):
            raise ConfigError(
                f"{argument!r} is not a long option of nsys",
                where="--nsys-arg",
                hint="Write for example --nsys-arg=--nic-metrics=true.",
            )
    if trace is not None and not all(trace.split(",")):
        raise ConfigError(
            f"{trace!r} is not a list of what to trace", where="--nsys-trace", hint="Write for example cuda,nvtx,osrt."
        )
