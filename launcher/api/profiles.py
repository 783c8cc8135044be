"""What a profiler has captured of a run."""

from dataclasses import dataclass

from launcher._util.shell import LocalShell
from launcher.api.locate import find_run
from launcher.report.profiles.listing import Capture, list_profiles
from launcher.report.profiles.tables import Summary, summarise
from launcher.rundir import RunDirectory


@dataclass(frozen=True)
class Profiles:
    """The captures of a run."""

    run: RunDirectory
    listed: tuple[Capture, ...]
    summaries: tuple[Summary, ...]
    """Where the time went, a summary for each capture; empty unless it was asked for."""

    @property
    def sound(self) -> bool:
        """Return whether no expected capture is missing or broken."""
        return all(one.sound is not False for one in self.listed)


def read_profiles(
    name: str, *, run_root: str | None = None, attempt: str | None = None, summary: bool = False, top: int = 10
) -> Profiles:
    """Return what was captured of a run, in one attempt or in all; `summary` reads the captures as well.

    `top` is the number of kernels or calls in each summary. Raises RequestError where the run was not profiled.
    """
    shell = LocalShell()
    run = find_run(name, run_root)
    listed = list_profiles(run, shell, attempt=attempt)
    return Profiles(run, listed, summarise(listed, shell, count=top) if summary else ())
