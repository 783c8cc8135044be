"""What is captured of a run: what was asked for, what is known of the place, and the decision, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from launcher.config.cluster import Fabric

BUILT_IN = ("torch", "viztracer", "memory")
"""Names of --profiler besides `path.py:Class`; nsys has a switch of its own."""

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
"""The request's names for all of it: said of one start of a run, so --resume does not ask for it again by itself."""


@dataclass(frozen=True)
class CustomProfiler:
    """A user's own profiler: where its file comes from, its path below code/, its class, its reports' ending."""

    source: str
    path: str
    class_name: str
    extension: str


@dataclass(frozen=True)
class ProfilerOptions:
    """What the options of one run say about profiling; None and empty: nothing."""

    nsys: bool = False
    profiler: str | None = None
    """torch, viztracer, memory, or `path.py:Class`."""
    steps: str | None = None
    """`10:15`: from step 10 until before step 15."""
    ranks: str | None = None
    """`0,8`, `nodes` for the first rank of each node, `all`, or a mixture."""
    trace: str | None = None
    """nsys' --trace."""
    args: tuple[str, ...] = ()
    """Further arguments of nsys profile, each whole."""
    gpu_metrics: bool = False
    nsys_from: str | None = None
    """A directory of this host with an nsys in it, to be mounted into the image."""


@dataclass(frozen=True)
class ProfilerContext:
    """What the plan knows about where ranks run; None means unknown, and then nothing is refused for it."""

    device: Literal["auto", "gpu", "cpu"] = "auto"
    image: str | None = None
    """The image's name, where ranks run in one."""
    packages: Mapping[str, str] | None = None
    """What the image holds, by its manifest: names such as `nsys` and `viztracer` with their versions."""
    nsys: str | None = None
    """The nsys of this machine; its path, or None."""
    viztracer: bool = True
    """Whether this machine's Python has VizTracer."""
    local: bool = False
    """Whether the ranks are processes of this machine, outside any image."""
    fabric: Fabric | None = None
    resume_step: int | None = None
    """The step that a resumed run begins at."""
    custom: CustomProfiler | None = None
    """The user's own profiler, looked up."""
    nsys_from: str | None = None
    """The program nsys inside ProfilerOptions.nsys_from."""


@dataclass(frozen=True)
class NsysOptions:
    """How nsys is called, besides what never changes."""

    program: str = "nsys"
    trace: str | None = None
    args: tuple[str, ...] = ()
    gpu_metrics: bool = False
    fabric: Fabric | None = None


@dataclass(frozen=True)
class ProfilerPlan:
    """The decision: a profiler, its steps (from `start` until before `stop`) and its ranks (empty: all)."""

    name: str
    start: int
    stop: int
    ranks: tuple[int, ...]
    finish_timeout_s: int
    """How long the other ranks may go on after the first has ended."""
    extension: str = ""
    nsys: NsysOptions | None = None
    custom: CustomProfiler | None = None
    mounts: tuple[str, ...] = ()
    """Directories of the host that the image needs for it, read-only at the same place."""
    unchecked: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """`options.profiler` of argv.json: what the job needs to know."""
        nsys = self.nsys and {
            "program": self.nsys.program,
            "trace": self.nsys.trace,
            "args": list(self.nsys.args),
            "gpu_metrics": self.nsys.gpu_metrics,
            "fabric": self.nsys.fabric,
        }
        return {
            "name": self.name,
            "start": self.start,
            "stop": self.stop,
            "ranks": list(self.ranks),
            "extension": self.extension,
            "finish_timeout_s": self.finish_timeout_s,
            "nsys": nsys,
            "own": self.custom and {"path": self.custom.path, "class": self.custom.class_name},
        }
