"""Commands and stacks beside the ranks of a run that goes on."""

from collections.abc import Sequence
from dataclasses import dataclass

from launcher._util.errors import RequestError
from launcher._util.shell import LocalShell
from launcher.api.locate import find_run
from launcher.contract.records.nodes import StackDump
from launcher.watch import attach


@dataclass(frozen=True)
class Stacks:
    """The stacks of a run's ranks."""

    dumps: tuple[StackDump, ...]
    missing: tuple[int, ...]
    """Ranks that did not answer."""
    problem: str
    """What srun or the nodes said of them."""


def execute_beside(
    name: str, command: Sequence[str], *, rank: int = 0, run_root: str | None = None, terminal: bool = False
) -> int:
    """Run a command on the node of a rank, in its container and environment; return the command's exit status.

    It has this process's own streams, with `terminal` a terminal of its own. Raises RequestError for a run that is not
    running, OutsideError.
    """
    if not command:
        raise RequestError("no command was given", hint=f"Such as: launcher exec {name} -- nvidia-smi")
    place = attach.find_place(find_run(name, run_root), LocalShell())
    return attach.execute(place, rank, command, terminal=terminal)


def read_stacks(name: str, *, rank: int | None = None, run_root: str | None = None) -> Stacks:
    """Return what the ranks of a run are doing now, by py-spy or as they write it themselves.

    Raises RequestError for a run that is not running, OutsideError.
    """
    place = attach.find_place(find_run(name, run_root), LocalShell())
    dumps, problem = attach.read_stacks(place, rank, LocalShell())
    wanted = range(place.world_size) if rank is None else (rank,)
    missing = tuple(sorted({*wanted} - {one["rank"] for one in dumps}))
    return Stacks(tuple(dumps), missing, problem)
