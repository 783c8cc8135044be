"""The profiler of a run as frozen values: the user's options, the context of the run, and the resulting plan."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from launcher.config.cluster import Fabric
from launcher.contract.frozen import dataclass

if TYPE_CHECKING:
    from launcher.contract.records.request import NsysRequest, ProfilerRequest

BUILT_IN = ("torch", "viztracer", "memory")
"""Names for --profiler, besides `path.py:Class`; nsys has its own option --nsys."""

OPTIONS = (
    "nsys",
    "profiler",
    "profile_steps",
    "profile_ranks",
    "nsys_trace",
    "nsys_args",
    "gpu_metrics",
    "nsys_from",
)
"""Fields of the request about profiling. They apply to one start of a run, so --resume does not repeat them."""


@dataclass(frozen=True)
class CustomProfiler:
    """A user's own profiler class, as the plan ships it."""

    source: str
    """Absolute path of its file."""
    path: str
    """Path of its file below code/."""
    class_name: str
    extension: str
    """Extension of its reports."""


@dataclass(frozen=True)
class ProfilerOptions:
    """The options of a run about profiling; None and empty values mean that an option was not given."""

    nsys: bool = False
    profiler: str | None = None
    """torch, viztracer, memory, or `path.py:Class`."""
    steps: str | None = None
    """`10:15`: steps 10 to 14."""
    ranks: str | None = None
    """`0,8`, `nodes` for the first rank of each node, `all`, or a combination."""
    trace: str | None = None
    """Value for --trace of nsys."""
    args: tuple[str, ...] = ()
    """Further arguments of `nsys profile`, one string each."""
    gpu_metrics: bool = False
    nsys_from: str | None = None
    """A directory of this host that contains nsys and is mounted into the image."""

    def nsys_options(self) -> list[str]:
        """Return the command-line options of nsys, besides --nsys, that were given."""
        values = {
            "--nsys-trace": self.trace,
            "--nsys-arg": self.args,
            "--gpu-metrics": self.gpu_metrics,
            "--nsys-from": self.nsys_from,
        }
        return [option for option, value in values.items() if value]


@dataclass(frozen=True)
class ProfilerContext:
    """What the plan knows about where ranks run; None means unknown, and nothing is refused for an unknown value."""

    device: Literal["auto", "gpu", "cpu"] = "auto"
    image: str | None = None
    """Name of the image, if ranks run in one."""
    packages: Mapping[str, str] | None = None
    """Contents of the image by its manifest: names such as `nsys` and `viztracer` with their versions."""
    nsys: str | None = None
    """Path of nsys on this machine; None if there is none."""
    viztracer: bool = True
    """Whether this machine's Python has VizTracer."""
    local: bool = False
    """Whether the ranks are processes on this machine, outside any image."""
    fabric: Fabric | None = None
    resume_step: int | None = None
    """The step at which a resumed run starts."""
    custom: CustomProfiler | None = None
    """The user's own profiler, if the options name one."""
    nsys_from: str | None = None
    """Path of nsys inside ProfilerOptions.nsys_from."""


@dataclass(frozen=True)
class NsysOptions:
    """Variable parts of the command line of nsys."""

    program: str = "nsys"
    trace: str | None = None
    args: tuple[str, ...] = ()
    gpu_metrics: bool = False
    fabric: Fabric | None = None


@dataclass(frozen=True)
class ProfilerPlan:
    """The profiler of a run, its steps (from `start` until before `stop`) and its ranks (empty: all)."""

    name: str
    start: int
    stop: int
    ranks: tuple[int, ...]
    finish_timeout_s: int
    """Time for the other ranks to end after the first one has ended (srun --wait), in seconds."""
    extension: str = ""
    nsys: NsysOptions | None = None
    custom: CustomProfiler | None = None
    mounts: tuple[str, ...] = ()
    """Directories of the host that are mounted read-only at the same path for the profiler."""
    unchecked: tuple[str, ...] = ()
    """What could not be checked before the run, in words."""

    def job_options(self) -> "ProfilerRequest":
        """Return `options.profiler` of argv.json: what the job needs to know."""
        nsys: NsysRequest | None = (
            None
            if self.nsys is None
            else {
                "program": self.nsys.program,
                "trace": self.nsys.trace,
                "args": list(self.nsys.args),
                "gpu_metrics": self.nsys.gpu_metrics,
                "fabric": self.nsys.fabric,
            }
        )
        return {
            "name": self.name,
            "start": self.start,
            "stop": self.stop,
            "ranks": list(self.ranks),
            "extension": self.extension,
            "finish_timeout_s": self.finish_timeout_s,
            "nsys": nsys,
            "own": None if self.custom is None else {"path": self.custom.path, "class": self.custom.class_name},
        }
