"""What every backend does: it starts a run, and hands out what it has started."""

from typing import Protocol, TypeVar

from launcher._util.shell import Shell
from launcher.discovery.host import HostContext
from launcher.planning.backend import BackendTraits
from launcher.planning.model import Plan
from launcher.rundir import RunDirectory


class StartedRun(Protocol):
    """A run that this process has started. Later processes know it by its journal (launcher/watch)."""

    run: RunDirectory

    def poll(self) -> int | None:
        """Return the step's exit status once it has ended; None while it is alive."""
        ...

    def cancel(self) -> None:
        """End it at once, without saving. A second call insists."""
        ...

    def finish(self, status: int) -> int:
        """Clean up after the end with this status. Return the exit status of the command.

        That is 0 for a run that finished, 1 for one that failed or stopped early, 3 where this is not known.
        """
        ...


Started_co = TypeVar("Started_co", bound=StartedRun, covariant=True)


class Backend(Protocol[Started_co]):
    """One way to start a run whose directory is prepared."""

    traits: BackendTraits

    def start(self, plan: Plan, run: RunDirectory, host: HostContext, shell: Shell) -> Started_co:
        """Start the run and record that in its journal. Raises LauncherError where nothing was started."""
        ...
