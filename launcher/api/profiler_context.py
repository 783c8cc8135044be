"""What a plan has to know about the place where a profiler is to work."""

from pathlib import Path
from typing import TYPE_CHECKING

from launcher._util.errors import ConfigError
from launcher.config.cluster import Cluster
from launcher.discovery.code_files import refuse_secrets
from launcher.planning.backend import BackendTraits
from launcher.planning.profiler.model import CustomProfiler, ProfilerContext, ProfilerOptions

if TYPE_CHECKING:
    from launcher.discovery.host import HostContext
    from launcher.discovery.image import Image
    from launcher.rundir import RunDirectory


def find_profiler_context(
    options: ProfilerOptions,
    *,
    backend: BackendTraits,
    cluster: Cluster,
    host: "HostContext",
    image: "Image | None",
    resumed: "RunDirectory | None",
) -> ProfilerContext:
    """Look at the place where the run's profiler would work.

    Raises ConfigError for a user's own profiler, or an nsys of the host, that is not there.
    """
    from launcher.discovery import profiler

    custom = None
    if options.profiler and ":" in options.profiler:
        found = profiler.read_profiler_class(options.profiler, host.directory)
        custom = CustomProfiler(str(found.path), f"profiler/{found.path.name}", found.class_name, found.extension)
        if resumed and not (resumed.code / custom.path).is_file():
            raise ConfigError(
                "a run is resumed with the code of its first attempt, and this profiler is not in it",
                where=f"--profiler {options.profiler}",
                hint="Take one that comes with the launcher, or start a new run with --allow-checkpoint-load.",
            )
    one_machine = not backend.slurm_step
    local = one_machine and image is None
    return ProfilerContext(
        # A local run with `auto` computes on the CPU where no GPU is seen.
        device="cpu" if one_machine and cluster.device == "auto" and not host.gpus else cluster.device,
        image=image.name if image else None,
        packages=image.packages if image else None,
        nsys=profiler.find_local_nsys(host.environ) if options.nsys and local else None,
        viztracer=profiler.has_viztracer() if local else True,
        local=local,
        fabric=cluster.fabric,
        resume_step=newest_step(resumed.checkpoints) if resumed else None,
        custom=custom,
        nsys_from=profiler.find_nsys_below(options.nsys_from) if options.nsys_from else None,
    )


def newest_step(checkpoints: Path) -> int | None:
    """Return the step of the newest checkpoint by its directory's name; the job judges whether it is whole."""
    names = (path.name.removeprefix("iter_") for path in checkpoints.glob("iter_*"))
    return max((int(name) for name in names if name.isdigit()), default=None)


def own_code(context: ProfilerContext) -> tuple[tuple[str, str], ...]:
    """Return the file of the user's own profiler, for code/: its path there, and its source."""
    if context.custom:
        refuse_secrets(Path(context.custom.source))
    return ((context.custom.path, context.custom.source),) if context.custom else ()
