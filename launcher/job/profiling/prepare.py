"""From the request and the resolved configuration to what this rank captures."""

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


def prepare(config: Any, rank: Rank, settings: Mapping[str, Any], device: str) -> Optional[Window]:
    """This rank's window, not attached yet; None on a rank that captures nothing.

    `settings` is argv.json's `options.profiler`. The window is the configuration's: the plan wrote it there, and an
    override may hold what only the job knows. Raises UserError, on every rank, where it cannot work.
    """
    start, stop = check_profiler(config, settings, device)
    section, name = config.profiling, str(settings["name"])
    if name == "torch":
        # Ours does the work, see builtin.Torch.
        section.use_pytorch_profiler = False
    ranks = list(section.profile_ranks)
    if ranks and rank.rank not in ranks:
        return None
    record = record_of(rank, settings, (start, stop))
    return Window(_make(config, settings, rank, record), record, saves=name != "nsys")


def check_profiler(config: Any, settings: Mapping[str, Any], device: str) -> "tuple[int, int]":
    """The window, or UserError where profiling cannot work with this configuration."""
    section, name = config.profiling, str(settings["name"])
    if section is None:
        raise UserError("profiling=null leaves no steps to capture", where="profiling", hint="leave one of them out")
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
            f"steps {start}:{stop} are to be profiled, but the run ends after {iterations} (train.train_iters)",
            where="profiling.profile_step_end",
            hint=f"name steps below {iterations}: --profile-steps",
        )


def _check_device(config: Any, name: str, device: str) -> None:
    if device == "cpu" and name in ("nsys", "memory"):
        what = (
            "nsys' capture range is opened by CUDA's profiler API" if name == "nsys" else "it records CUDA's allocator"
        )
        raise UserError(f"the profiler {name} needs a GPU: {what}", hint="--profiler torch and viztracer run on CPU")
    if name != "nsys":
        return
    if getattr(config.ft, "enable_ft_package", False):
        raise UserError("nsys and fault tolerance (ft.enable_ft_package) exclude each other", where="ft")
    if config.profiling.use_pytorch_profiler:
        raise UserError(
            "the recipe sets profiling.use_pytorch_profiler, and torch has one profiler at a time with nsys"
        )


def _make(config: Any, settings: Mapping[str, Any], rank: Rank, record: Record) -> Profiler:
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
    own = settings.get("own")
    if own is not None:
        return own_profiler(rank.run_paths.code / own["path"], own["class"])
    try:
        return known[str(settings["name"])]()
    except ImportError as error:
        raise UserError(
            f"the profiler {settings['name']} cannot be loaded: {error}",
            hint="install it in the image, or take another --profiler",
        ) from error


def own_profiler(path: Path, name: str) -> Profiler:
    """An object of the user's own class. Raises UserError, with the place in the file where it can be told."""
    spec = importlib.util.spec_from_file_location(f"profiler_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"there is no profiler {path.name} in this run's code", where=str(path))
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
