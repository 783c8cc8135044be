"""The history of a run: its attempts, why each ended and what came next, and the share of time that was not lost.

An iteration is kept if no later attempt computed it again, and none will have to: of a run that has stopped, those up
to its newest checkpoint. Times are those of the compute nodes, from the start of the program to its end.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from launcher.contract import files, next_attempt, verdict
from launcher.contract.frozen import dataclass
from launcher.contract.paths import PLAN
from launcher.contract.records.nodes import NodeCheck
from launcher.contract.records.result import NextAttempt
from launcher.rundir import Attempt, RunDirectory
from launcher.watch.progress_state import AttemptProgress, advance, clock, number
from launcher.watch.status import RunStatus
from launcher.watch.tail import last_lines


@dataclass(frozen=True)
class AttemptHistory:
    """One attempt of a run. None stands for what is unknown."""

    attempt: str
    kind: str
    """`running`, `finished`, `failed` ..., or for a run that keeps going the kind of end (contract/next_attempt.py)."""
    why: str | None
    """How it ended, in words."""
    next: str | None
    """`requeued`, `successor` or `resumed`; None for the newest one."""
    ended_because: str | None
    """Why a run that keeps going has ended with this attempt."""
    first: int | None
    """The iteration that it started from."""
    reached: int | None
    """The last iteration that it completed."""
    kept: int | None
    """How many of its iterations no other attempt computes again."""
    seconds: float | None
    seconds_per_iteration: float | None
    ranks: int
    node_check: NodeCheck | None = None
    """Which nodes of a job with spare ones have trained, and why."""

    @property
    def lost_iterations(self) -> int | None:
        """Return how many iterations were computed in vain."""
        if self.reached is None:
            return 0
        return None if self.first is None or self.kept is None else self.reached - self.first - self.kept

    @property
    def kept_seconds(self) -> float | None:
        """Return the time of the iterations that are kept."""
        if self.kept == 0:
            return 0.0
        if self.kept is None or self.seconds_per_iteration is None:
            return None
        kept = self.kept * self.seconds_per_iteration
        return kept if self.seconds is None else min(kept, self.seconds)

    @property
    def lost_seconds(self) -> float | None:
        """Return the time that did not become iterations that are kept: start, saving and evaluation count too."""
        kept = self.kept_seconds
        return None if kept is None or self.seconds is None else self.seconds - kept

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for --json."""
        return {
            "attempt": self.attempt,
            "kind": self.kind,
            "why": self.why,
            "next": self.next,
            "ended_because": self.ended_because,
            "first_iteration": self.first,
            "last_iteration": self.reached,
            "kept_iterations": self.kept,
            "lost_iterations": self.lost_iterations,
            "seconds": self.seconds,
            "lost_seconds": self.lost_seconds,
            "ranks": self.ranks,
            "node_check": self.node_check,
        }


@dataclass(frozen=True)
class History:
    """All attempts of a run, oldest first."""

    attempts: tuple[AttemptHistory, ...]

    @property
    def lost_iterations(self) -> int | None:
        """Return how many iterations were computed in vain; None if that is unknown of one attempt."""
        lost = [each.lost_iterations for each in self.attempts]
        return sum(each for each in lost if each is not None) if None not in lost else None

    @property
    def lost_seconds(self) -> float | None:
        """Return the time of attempts that did not become iterations that are kept."""
        lost = [each.lost_seconds for each in self.attempts]
        return sum(each for each in lost if each is not None) if None not in lost else None

    @property
    def goodput(self) -> float | None:
        """Return the share of GPU time that became iterations which are kept; None if that is unknown."""
        known = [(each.seconds, each.kept_seconds, each.ranks) for each in self.attempts]
        total, good = 0.0, 0.0
        for seconds, kept, ranks in known:
            if seconds is None or kept is None:
                return None
            total += seconds * ranks
            good += kept * ranks
        return good / total if total > 0 else None

    @property
    def is_long(self) -> bool:
        """Return whether it says more than the status of a run with one attempt."""
        return len(self.attempts) > 1 or any(each.ended_because or each.node_check for each in self.attempts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for --json."""
        return {
            "history": [each.to_dict() for each in self.attempts],
            "lost_iterations": self.lost_iterations,
            "lost_seconds": self.lost_seconds,
            "goodput": self.goodput,
        }


def history_of(status: RunStatus) -> History:
    """Return the history of a run from its directory. What is lost or damaged there is unknown."""
    run = RunDirectory(status.run_state.path)
    attempts = run.attempts()
    sizes = _world_sizes(attempts, status.run_state.world_size)
    found, saves = list[AttemptHistory](), list[int | None]()
    for index, attempt in enumerate(attempts):
        follower = attempts[index + 1] if index + 1 < len(attempts) else None
        one, saved = _read(attempt, follower, sizes[index], going_on=not status.phase.over)
        found.append(one)
        saves.append(saved)
    complete = status.phase.good or not status.phase.over
    return History(with_kept(found, None if complete else max((each for each in saves if each is not None), default=0)))


def with_kept(attempts: Sequence[AttemptHistory], newest_save: int | None) -> tuple[AttemptHistory, ...]:
    """Return the attempts with the number of iterations that each has contributed.

    An attempt takes away from all before it what lies behind the iteration that it started from. `newest_save` is the
    checkpoint from which a run that has stopped would continue; None for one that goes on or has finished.
    """
    ends: list[int | None] = [each.reached for each in attempts]
    for index, each in enumerate(attempts):
        if each.reached is not None:
            ends[:index] = [_smaller(end, each.first) for end in ends[:index]]
    if newest_save is not None:
        ends = [_smaller(end, newest_save) for end in ends]
    return tuple(replace(each, kept=_kept(each, end)) for each, end in zip(attempts, ends, strict=True))


def _smaller(end: int | None, limit: int | None) -> int | None:
    return None if end is None or limit is None else min(end, limit)


def _kept(attempt: AttemptHistory, end: int | None) -> int | None:
    if attempt.reached is None:
        return 0
    return None if end is None or attempt.first is None else max(0, end - attempt.first)


def _read(
    attempt: Attempt, follower: Attempt | None, ranks: int, *, going_on: bool
) -> tuple[AttemptHistory, int | None]:
    """Return an attempt, and the newest checkpoint that it saved."""
    result, decided = files.read_object(attempt.result_file) or {}, next_attempt.read_next(attempt)
    events = _events(attempt)
    times = [time for event in events if (time := number(event, "time")) is not None]
    began = times[0] - (number(events[0], "seconds") or 0.0) if times else None
    progress = advance(advance(AttemptProgress(), last_lines(attempt.timeline)), last_lines(attempt.metrics))
    named = [number(event, "iteration") for event in events if event.get("event") == "checkpoint_loaded"]
    first = 0.0 if any(event.get("event") == "train_start" for event in events) else None
    first = named[-1] if named else first
    reached = number(result, "iteration") if result else progress.iteration
    ended = number(result, "ended") if result else progress.time
    running = follower is None and going_on and not result
    saves = [
        step for event in events if event.get("event") == "save" and (step := number(event, "iteration")) is not None
    ]
    found = AttemptHistory(
        attempt=attempt.name,
        kind="running" if running else str(decided["kind"] if decided else result.get("outcome") or "no verdict"),
        why=str(result["reason"]) if result.get("reason") else None,
        next=_next(decided, attempt, follower),
        ended_because=decided["reason"] if decided and decided["action"] == "end" else None,
        first=None if first is None else int(first),
        reached=None if reached is None else int(reached),
        kept=None,
        seconds=max(0.0, ended - began) if ended is not None and began is not None else None,
        seconds_per_iteration=number(result, "seconds_per_iteration") or progress.seconds_per_iteration,
        ranks=ranks,
        node_check=verdict.read_node_check(attempt),
    )
    return found, int(max(saves)) if saves else None


def _next(decided: NextAttempt | None, attempt: Attempt, follower: Attempt | None) -> str | None:
    """Return what began the following attempt."""
    if follower is None:
        return None
    before, after = attempt.start_record, follower.start_record
    if before is None or after is None:
        return "resumed"
    if before.nonce == after.nonce:
        return "requeued"
    return "successor" if decided is not None and decided["token"] == after.nonce else "resumed"


def _world_sizes(attempts: Sequence[Attempt], newest: int) -> list[int]:
    """Return the number of ranks of each attempt: a resume leaves the plan of those before in the last of them."""
    sizes = list[int]()
    for attempt in reversed(attempts):
        plan = files.read_object(attempt.path / PLAN) or {}
        newest = int(number(plan, "world_size") or newest)
        sizes.append(newest)
    return sizes[::-1]


def _events(attempt: Attempt) -> list[dict[str, Any]]:
    """Return the timeline of an attempt; nothing where it cannot be read."""
    try:
        return files.read_lines(attempt.timeline)
    except OSError:
        return []


def lines(history: History) -> list[str]:
    """Return the history for people: a line about the run, and one for each attempt."""
    return [summary(history), *(_line(each) for each in history.attempts)]


def summary(history: History) -> str:
    """Return how many attempts there were, what was lost and the goodput."""
    count = len(history.attempts)
    return (
        f"{count} attempt{'s' if count > 1 else ''}, {_number(history.lost_iterations)} iterations and "
        f"{duration(history.lost_seconds)} lost, goodput "
        f"{'unknown' if history.goodput is None else f'{history.goodput:.1%}'}"
    )


def span(each: AttemptHistory) -> str:
    """Return which iterations an attempt has computed."""
    return "no iteration" if each.reached is None else f"iterations {_number(each.first)} to {each.reached}"


def _line(each: AttemptHistory) -> str:
    words = [f"{each.attempt}: {span(each)} in {duration(each.seconds)}", each.kind]
    if each.why:
        words[-1] += f" ({' '.join(each.why.split())})"
    if each.lost_iterations:
        words.append(f"{each.lost_iterations} lost")
    if each.node_check is not None and each.node_check["chosen"]:
        words.append(describe_node_check(each.node_check))
    if each.next:
        words.append(each.next)
    if each.ended_because and each.kind != "finished":
        words.append(f"not continued: {each.ended_because}")
    return "; ".join(words)


_NODES_SHOWN = 4


def describe_node_check(check: NodeCheck) -> str:
    """Return which nodes of a job with spare ones train, in words: `2 of 3 nodes train; not n1: gpus: 7 of 8`."""
    chosen = set(check["chosen"])
    bad = [each for each in check["nodes"] if each["failed"] or not each["answered"]]
    spare = len(check["nodes"]) - len(chosen) - len(bad)
    words = f"{len(chosen)} of {len(check['nodes'])} nodes train" + (f", {spare} spare" if spare else "")
    if bad:
        words += f", not {', not '.join(verdict.describe_node(each) for each in bad[:_NODES_SHOWN])}"
        words += f" and {len(bad) - _NODES_SHOWN} more" if len(bad) > _NODES_SHOWN else ""
    return words


def _number(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def duration(seconds: float | None) -> str:
    """Return a time for people; `unknown` for None."""
    return "unknown" if seconds is None else clock(seconds)
