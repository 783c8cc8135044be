"""What the plan has to know about where a profiler is to work."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from launcher._util.errors import SpecError
from launcher.config.cluster import Cluster, Fabric
from launcher.planning.model import Mode
from launcher.planning.profiler.model import Own, Place, Wish

if TYPE_CHECKING:
    from launcher.discovery.host import World
    from launcher.rundir import RunDirectory


def place_of(
    wish: Wish,
    *,
    mode: Mode,
    cluster: Cluster,
    world: "World",
    image: str | None,
    packages: Mapping[str, str] | None,
    fabric: Fabric | None,
    resumed: "RunDirectory | None",
) -> Place:
    """The place of a run. `packages` is what the image's manifest says, None where it says nothing.

    Raises SpecError for a user's own profiler, or an nsys of the host, that is not there.
    """
    from launcher.discovery import profiler

    own = None
    if wish.profiler and ":" in wish.profiler:
        found = profiler.read_own_profiler(wish.profiler, world.directory)
        own = Own(str(found.path), f"profiler/{found.path.name}", found.class_name, found.extension)
        if resumed and not (resumed.code / own.path).is_file():
            raise SpecError(
                "a run is resumed with the code of its first attempt, and this profiler is not in it",
                where=f"--profiler {wish.profiler}",
                hint="Take one that comes with the launcher, or start a new run with --load.",
            )
    local = mode == "local" and image is None
    return Place(
        # A local run with `auto` computes on the CPU where no GPU is seen.
        device="cpu" if mode == "local" and cluster.device == "auto" and not world.gpus else cluster.device,
        image=image,
        packages=packages,
        nsys=profiler.nsys_here(world.environ) if wish.nsys and local else None,
        viztracer=profiler.has_viztracer() if local else True,
        local=local,
        fabric=fabric,
        resume_step=newest_step(resumed.checkpoints) if resumed else None,
        own=own,
        nsys_from=profiler.nsys_in(wish.nsys_from) if wish.nsys_from else None,
    )


def newest_step(checkpoints: Path) -> int | None:
    """The step of the newest checkpoint by its directory's name; the job judges whether it is whole."""
    names = (path.name.removeprefix("iter_") for path in checkpoints.glob("iter_*"))
    return max((int(name) for name in names if name.isdigit()), default=None)


def own_code(place: Place) -> tuple[tuple[str, str], ...]:
    """The file of the user's own profiler, for code/: its path there, and its source."""
    return ((place.own.path, place.own.source),) if place.own else ()
