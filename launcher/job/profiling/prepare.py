"""What this rank captures, from the request and the resolved configuration."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Optional

from ..errors import UserError
from ..rank import Rank
from . import builtin
from .record import Record, record_of
from .window import Profiler, Window

_METHODS = ("start", "stop", "save")


def prepare(config: Any, rank: Rank, options: Mapping[str, Any], device: str) -> Optional[Window]:
    """Return this rank's window, not attached yet; None on a rank that captures nothing.

    `options` is argv.json's `options.profiler`. The window is that of the configuration: the plan wrote it there, and
    an override may hold what only the job knows. Raises UserError, on every rank, where profiling cannot work.
    """
    start, stop = check_profiler(config, options, device)
    section, name = config.profiling, str(options["name"])
    if name == "torch":
        # The launcher's own does the work, see builtin.Torch.
        section.use_pytorch_profiler = False
    ranks = list(section.profile_ranks)
    if ranks and rank.rank not in ranks:
        return None
    record = record_of(rank, options, (start, stop))
    return Window(_make(config, options, rank, record), record, saves=name != "nsys")


def check_profiler(config: Any, options: Mapping[str, Any], device: str) -> "tuple[int, int]":
    """Return the window (first step, step after the last). Raises UserError where profiling cannot work."""
    section, name = config.profiling, str(options["name"])
    if section is None:
        raise UserError(
            "profiling=null and --profiler exclude each other", where="profiling", hint="leave one of them out"
        )
    start, stop = int(section.profile_step_start), int(section.profile_step_end)
    _check_window(config, start, stop)
    _check_device(config, name, device)
    return start, stop


def _check_window(config: Any, start: int, stop: int) -> None:
    iterations = config.train.train_iters
    if stop <= start:
        raise UserError(
            f"profiling.profile_step_end={stop} is not after profile_step_start={start}: nothing would be captured",
            where="profiling.profile_step_end",
        )
    if isinstance(iterations, int) and stop > iterations:
        raise UserError(
            f"steps {start}:{stop} cannot be profiled: the run ends after {iterations} steps (train.train_iters)",
            where="profiling.profile_step_end",
            hint=f"choose steps below {iterations}: --profile-steps",
        )


def _check_device(config: Any, name: str, device: str) -> None:
    if device == "cpu" and name in ("nsys", "memory"):
        what = "CUDA's profiler API opens its capture range" if name == "nsys" else "it records CUDA's allocator"
        raise UserError(
            f"the profiler {name} needs a GPU: {what}", hint="use --profiler torch or viztracer, which run on CPU"
        )
    if name != "nsys":
        return
    if getattr(config.ft, "enable_ft_package", False):
        raise UserError("nsys and fault tolerance (ft.enable_ft_package) exclude each other", where="ft")
    if config.profiling.use_pytorch_profiler:
        raise UserError("the recipe sets profiling.use_pytorch_profiler, which cannot run together with nsys")


def _make(config: Any, options: Mapping[str, Any], rank: Rank, record: Record) -> Profiler:
    section = config.profiling

    def torch() -> Profiler:
        chakra = None
        if getattr(section, "pytorch_profiler_collect_chakra", False):
            record.directory.mkdir(parents=True, exist_ok=True)
            chakra = record.directory / f"{record.stem}.chakra.json"
        return builtin.Torch(
            shapes=bool(getattr(section, "pytorch_profiler_collect_shapes", False)),
            stacks=bool(getattr(section, "pytorch_profiler_collect_callstack", False)),
            chakra=chakra,
        )

    known: dict[str, Callable[[], Profiler]] = {
        "torch": torch,
        "viztracer": builtin.VizTracer,
        "memory": builtin.Memory,
        "nsys": builtin.NsysMarks,
    }
    own = options.get("own")
    if own is not None:
        return load_custom_profiler(rank.run_paths.code / own["path"], own["class"])
    try:
        return known[str(options["name"])]()
    except ImportError as error:
        raise UserError(
            f"the profiler {options['name']} cannot be loaded: {error}",
            hint="install it in the image, or choose another --profiler",
        ) from error


def load_custom_profiler(path: Path, name: str) -> Profiler:
    """Return an instance of the user's class. Raises UserError, with the position in the file if known."""
    spec = importlib.util.spec_from_file_location(f"profiler_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"the profiler's file {path.name} is missing in this run's code", where=str(path))
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = getattr(module, name)()
    except Exception as error:
        raise UserError(
            f"the profiler {name} cannot be made: {type(error).__name__}: {error}", where=str(path)
        ) from error
    lacking = [method for method in _METHODS if not callable(getattr(made, method, None))]
    if lacking:
        raise UserError(f"the profiler {name} has no {', '.join(lacking)}()", where=str(path))
    profiler: Profiler = made
    return profiler
