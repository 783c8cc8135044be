"""What `launcher status` shows of a run beside its row: attempts, nodes, trackers, code; and all of it as JSON."""

import contextlib
from collections.abc import Sequence
from typing import Any, TextIO

from launcher._util.errors import LauncherError
from launcher._util.tables import printable
from launcher.planning.user_code import describe
from launcher.rundir import RunDirectory
from launcher.slurm.queue import Answer
from launcher.watch import evaluations
from launcher.watch.history import history_of, lines
from launcher.watch.status import RunStatus
from launcher.watch.telemetry import Telemetry, read_telemetry, sentences
from launcher.watch.trackers import trackers_of


def to_json(statuses: Sequence[RunStatus], answer: Answer, *, nodes: bool = False) -> dict[str, Any]:
    """Return the object of `launcher status --json`; with `nodes` also what the nodes of the newest attempts did."""
    return {
        "version": 1,
        "asked_at": answer.asked_at,
        "unreachable": answer.unreachable,
        "runs": [
            {**status.to_dict(), **history_of(status).to_dict(), **(_nodes_of(status) if nodes else {})}
            for status in statuses
        ],
    }


def _nodes_of(status: RunStatus) -> dict[str, Any]:
    found = _telemetry(status)
    places = trackers_of(RunDirectory(status.run_state.path))
    noted = evaluations.evaluations_of(RunDirectory(status.run_state.path))
    return {"nodes_sampled": found.to_dict() if found else None, "trackers": dict(places), "evaluations": noted}


def _telemetry(status: RunStatus) -> Telemetry | None:
    """Return what the nodes of the newest attempt did; None where they were not sampled."""
    attempt = RunDirectory(status.run_state.path).latest_attempt()
    found = read_telemetry(attempt) if attempt else None
    return found if found and found.nodes else None


def write_details(statuses: Sequence[RunStatus], stream: TextIO) -> None:
    """Write what is known of each run besides its row."""
    write_code(statuses, stream)
    write_histories(statuses, stream)
    write_nodes(statuses, stream)
    write_trackers(statuses, stream)
    write_evaluations(statuses, stream)


def write_histories(statuses: Sequence[RunStatus], stream: TextIO) -> None:
    """Write what became of each attempt, of the runs that have had several or keep going."""
    for status in statuses:
        history = history_of(status)
        if history.is_long:
            head, *rest = map(printable, lines(history))
            stream.writelines(
                f"{line}\n" for line in ("", f"{status.run_state.run_id}: {head}", *(f"  {one}" for one in rest))
            )


def write_nodes(statuses: Sequence[RunStatus], stream: TextIO) -> None:
    """Write which node of each run is the slowest, the hottest and throttled, where they were sampled."""
    for status in statuses:
        found = _telemetry(status)
        words = sentences(found) if found else []
        stream.writelines(printable(f"{status.run_state.run_id}: {one}") + "\n" for one in words)


def write_trackers(statuses: Sequence[RunStatus], stream: TextIO) -> None:
    """Write where the experiment trackers of each run have it."""
    for status in statuses:
        found = trackers_of(RunDirectory(status.run_state.path))
        stream.writelines(printable(f"{status.run_state.run_id}: {name}: {place}") + "\n" for name, place in found)


def write_evaluations(statuses: Sequence[RunStatus], stream: TextIO) -> None:
    """Write what evaluations of each run have found."""
    for status in statuses:
        found = evaluations.sentences(RunDirectory(status.run_state.path))
        stream.writelines(printable(f"{status.run_state.run_id}: {one}") + "\n" for one in found)


def write_code(statuses: Sequence[RunStatus], stream: TextIO) -> None:
    """Write the state of the user's code with which each run was made, where it has any."""
    for status in statuses:
        with contextlib.suppress(OSError, ValueError, LauncherError):  # a damaged run is described above
            code = describe(RunDirectory(status.run_state.path).plan)
            if code:
                stream.write(printable(f"{status.run_state.run_id}: code: {code}") + "\n")
