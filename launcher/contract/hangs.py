"""Hangs: the phases of a rank, when a node's ranks are silent for too long, and which rank the others wait for.

Pure functions over what a node's watchdog has seen (launcher/job/watch/watchdog.py) and has recorded.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Optional, get_args

from launcher.contract.flight_recorder import Dump
from launcher.contract.patterns import later
from launcher.contract.records.nodes import CollectiveRecord, RankSight
from launcher.contract.records.request import HangLimits

Phase = Literal[
    "not started",
    "starting",
    "setting up",
    "between steps",
    "evaluating",
    "saving",
    "first step",
    "training step",
    "ending",
    "ended",
]

PHASES: tuple[Phase, ...] = get_args(Phase)
"""In the order in which a rank goes through them with an equal number of completed steps."""

LONG: frozenset[Phase] = frozenset(
    {"not started", "starting", "setting up", "first step", "evaluating", "saving", "ending"}
)
"""Phases that may take much longer than a step, and have limits of their own."""

RECENT = 100
"""The number of steps whose slowest counts."""

SUSPECT_STEPS, END_STEPS = 20, 30
"""After as many times the slowest recent step stacks are written, and the attempt is ended."""

SUSPECT_AT_LEAST_S = 10.0

Stage = Literal["quiet", "suspected", "overdue"]

_OF_PYTHON = later(r"/lib/python3\.\d+/(?!site-packages|dist-packages)")
_ABOVE = later(r"^.*/(?=code/)|^.*/(?:site|dist)-packages/")

_COLLECTIVES = ("barrier", "all_reduce", "all_gather", "all_to_all", "reduce_scatter", "broadcast", "synchronize")


class RankView(NamedTuple):
    """What is known of one rank of a node at one moment."""

    rank: int
    phase: Phase
    steps: int
    """The number of steps that it has completed."""
    silent_s: float
    """How long neither its phase nor its number of steps has changed."""
    slowest_s: float
    """The slowest of its last 100 steps; 0 before the first."""

    @property
    def progress(self) -> tuple[int, int]:
        """Return a key that orders ranks by how far they have come."""
        return self.steps, PHASES.index(self.phase)


class Judgement(NamedTuple):
    """Whether the ranks of a node have been silent for too long."""

    stage: Stage
    ranks: tuple[int, ...] = ()
    """Those that are."""
    limit_s: float = 0.0
    """The lowest of their limits."""


def step_limit(limits: HangLimits, slowest_s: float) -> float:
    """Return how long a rank may be silent while it trains, in seconds."""
    return max(limits["hang_limit_s"], END_STEPS * slowest_s)


def limit_of(view: RankView, limits: HangLimits) -> float:
    """Return how long a rank may be silent in its phase, in seconds."""
    if view.phase in ("not started", "starting", "setting up"):
        return limits["start_limit_s"]
    if view.phase == "first step":
        return limits["first_step_limit_s"]
    if view.phase == "evaluating":
        return limits["evaluation_limit_s"]
    if view.phase in ("saving", "ending"):
        return limits["save_limit_s"]
    return step_limit(limits, view.slowest_s)


def suspect_after(view: RankView, limits: HangLimits) -> float:
    """Return after how many seconds of silence stacks are written: always before the limit."""
    before_the_limit = limit_of(view, limits) * SUSPECT_STEPS / END_STEPS
    if view.phase in LONG:
        return before_the_limit
    return min(max(SUSPECT_STEPS * view.slowest_s, SUSPECT_AT_LEAST_S), before_the_limit)


def judge(views: Iterable[RankView], limits: HangLimits) -> Judgement:
    """Judge the ranks of a node.

    A rank that is silent in a step is excused while a rank that is not ahead of it saves, evaluates or starts, within
    the limit of that phase: the others wait for it.
    """
    active = [view for view in views if view.phase != "ended"]
    excusing = [view for view in active if view.phase in LONG and view.silent_s < limit_of(view, limits)]

    def excused(view: RankView) -> bool:
        return view.phase not in LONG and any(other.progress <= view.progress for other in excusing)

    overdue = [view for view in active if view.silent_s >= limit_of(view, limits) and not excused(view)]
    if overdue:
        ranks = tuple(view.rank for view in overdue)
        return Judgement("overdue", ranks, min(limit_of(view, limits) for view in overdue))
    suspects = [view for view in active if view.silent_s >= suspect_after(view, limits) and not excused(view)]
    if suspects:
        ranks = tuple(view.rank for view in suspects)
        return Judgement("suspected", ranks, min(limit_of(view, limits) for view in suspects))
    return Judgement("quiet")


def is_busy_elsewhere(views: Iterable[RankView], limits: HangLimits) -> bool:
    """Return whether other nodes may wait for this one: it saves, evaluates or compiles for longer than a step may."""
    return any(
        view.phase in ("saving", "evaluating", "first step")
        and limits["hang_limit_s"] <= view.silent_s < limit_of(view, limits)
        for view in views
    )


# ---- which rank the others wait for

Kind = Literal[
    "never started",
    "stopped",
    "not in the collective",
    "does not answer",
    "not reported",
    "behind",
    "different collectives",
    "blocked",
]


class Culprits(NamedTuple):
    """The ranks that keep the others waiting, and what makes them differ; no rank where none differs."""

    ranks: tuple[int, ...] = ()
    kind: Optional[Kind] = None


def waits(sight: RankSight) -> Optional[bool]:
    """Return whether a rank waits for others in a collective; None where neither its recorder nor its stack is known.

    A stack that ends in torch.distributed counts also without a pending collective: a rank that waits in a store, or
    makes a process group.
    """
    if any(one["state"] != "completed" for one in sight["collectives"]):
        return True
    if sight["stack"]:
        return _stack_waits(sight["stack"])
    return False if sight["collectives"] else None


def _stack_waits(stack: Sequence[str]) -> bool:
    """Return whether the innermost frames, `function FILE:LINE`, are those of a collective."""
    function = stack[0].partition(" ")[0]
    return any(word in function for word in _COLLECTIVES) or any("torch/distributed/" in frame for frame in stack[:3])


def culprits(sights: Sequence[RankSight], unseen: Sequence[int] = ()) -> Culprits:
    """Return which ranks keep the others waiting. `unseen` are ranks that no node's watchdog has reported.

    From the surest sign to the weakest: a rank that never started; one that is stopped; one that does not wait while
    others do; where all that were seen wait, those that were not seen; of ranks that all wait, those behind in a
    process group's sequence, and those in another collective than most; those behind in their steps or phases; one
    that is blocked in the kernel.
    """
    active = [sight for sight in sights if sight["phase"] != "ended"]
    started = [sight for sight in active if sight["phase"] != "not started"]
    absent = _ranks(sight for sight in active if sight["phase"] == "not started")
    if absent:
        return Culprits(absent, "never started")
    not_seen = Culprits(tuple(sorted(unseen)) if any(waits(sight) for sight in started) else (), "not reported")
    for found in (
        _stopped(started),
        _not_waiting(started),
        not_seen,
        *_in_groups(started),
        _behind(started),
        _blocked(started),
    ):
        if found.ranks:
            return found
    return Culprits()


def _ranks(sights: Iterable[RankSight]) -> tuple[int, ...]:
    return tuple(sorted(sight["rank"] for sight in sights))


def _stopped(sights: Sequence[RankSight]) -> Culprits:
    return Culprits(_ranks(sight for sight in sights if sight["state"] in ("T", "t")), "stopped")


def _blocked(sights: Sequence[RankSight]) -> Culprits:
    found = [sight for sight in sights if sight["state"] == "D"]
    return Culprits(_ranks(found) if len(found) < len(sights) else (), "blocked")


def _not_waiting(sights: Sequence[RankSight]) -> Culprits:
    waiting = [sight for sight in sights if waits(sight)]
    if not waiting:
        return Culprits()
    silent = [sight for sight in sights if waits(sight) is None]
    others = [sight for sight in sights if waits(sight) is False]
    return Culprits(_ranks(others), "not in the collective") if others else Culprits(_ranks(silent), "does not answer")


def _in_groups(sights: Sequence[RankSight]) -> Iterable[Culprits]:
    """Yield the ranks that are behind in a process group, then those in another collective than most."""
    groups: dict[str, list[tuple[int, CollectiveRecord]]] = {}
    for sight in sights:
        for one in sight["collectives"]:
            groups.setdefault(one["group"], []).append((sight["rank"], one))
    for members in groups.values():
        last = max(one["seq"] for _, one in members)
        pending = any(one["state"] != "completed" for _, one in members)
        late = tuple(sorted(rank for rank, one in members if one["seq"] < last))
        if pending and late:
            yield Culprits(late, "behind")
    for members in groups.values():
        by_call: dict[tuple[str, str], list[int]] = {}
        for rank, one in members:
            if one["state"] != "completed":
                by_call.setdefault((one["op"], one["sizes"]), []).append(rank)
        if len(by_call) > 1:
            most = max(len(ranks) for ranks in by_call.values())
            least = min(len(ranks) for ranks in by_call.values())
            few = [rank for ranks in by_call.values() if len(ranks) < most or most == least for rank in ranks]
            yield Culprits(tuple(sorted(few)), "different collectives")


def _behind(sights: Sequence[RankSight]) -> Culprits:
    keys = {sight["rank"]: (sight["steps"], _order(sight["phase"])) for sight in sights}
    last = min(keys.values(), default=(0, 0))
    late = tuple(sorted(rank for rank, key in keys.items() if key == last))
    return Culprits(late if len(late) < len(keys) else (), "behind")


def _order(phase: str) -> int:
    return PHASES.index(phase) if phase in PHASES else 0


def current_collectives(dump: Dump) -> list[CollectiveRecord]:
    """Return of each process group the first collective that is not completed, else the last one.

    The host may be ahead of a GPU: what keeps it waiting is the first.
    """
    current: dict[str, CollectiveRecord] = {}
    for entry in sorted(dump.entries, key=lambda each: each.sequence):
        before = current.get(group := str(entry.group))
        if not entry.point_to_point and (before is None or before["state"] == "completed"):
            current[group] = {
                "group": group,
                "seq": entry.sequence,
                "op": entry.name,
                "state": "completed" if entry.done else "pending",
                "sizes": entry.shape,
            }
    return list(current.values())


# ---- in words


def rank_list(ranks: Iterable[int]) -> str:
    """Return ranks in words: `rank 3`, `ranks 0-2, 7`."""
    numbers = sorted(set(ranks))
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    words = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)
    return f"rank{'s' if len(numbers) > 1 else ''} {words}"


def doing(sight: RankSight) -> str:
    """Return where a rank is: `in training step 14`, `while it was saving after step 20`."""
    steps = sight["steps"]
    if sight["phase"] in ("training step", "first step"):
        return f"in training step {steps + 1}"
    return f"while {sight['phase']} after {steps} steps" if steps else f"while {sight['phase']}"


def place_of(stack: Sequence[str]) -> str:
    """Return the innermost frame that is not Python's own: `step (code/entrypoint.py:60)`; empty without a stack."""
    if not stack:
        return ""
    frame = next((each for each in stack if "<frozen" not in each and not _OF_PYTHON.search(each)), stack[0])
    function, _, place = frame.partition(" ")
    return f"{function} ({_ABOVE.sub('', place)})"


def call_of(one: CollectiveRecord) -> str:
    """Return a collective in words: `all_reduce 42 of default_pg`."""
    return f"{one['op'].rpartition(':')[2]} {one['seq']} of {one['group']}"


def pending_of(sight: RankSight) -> Optional[CollectiveRecord]:
    """Return the collective that a rank waits in, as its flight recorder shows it."""
    return next((one for one in sight["collectives"] if one["state"] != "completed"), None)


def sentence(found: Culprits, sights: Sequence[RankSight], silent_s: float, what: str = "") -> str:
    """Return what is known of a hang in one sentence: the ranks, what they do, and what the others wait in.

    `what` says of the ranks what they have done, where more is known than the sights show.
    """
    by_rank = {sight["rank"]: sight for sight in sights}
    first = by_rank.get(found.ranks[0]) if found.ranks else None
    waiting = [sight for sight in sights if waits(sight) and sight["rank"] not in found.ranks]
    calls = sorted({call_of(one) for sight in waiting if (one := pending_of(sight))})
    others = ""
    if waiting:
        others = f"; {rank_list(_ranks(waiting))} wait{'s' if len(waiting) == 1 else ''}"
        others += f" in {', '.join(calls[:2])}" if calls else " for it" if len(found.ranks) == 1 else " for them"
    return f"{what or _what(found, first, by_rank)}{others}; no progress for {silent_s:.0f} s"


def _what(found: Culprits, first: Optional[RankSight], by_rank: dict[int, RankSight]) -> str:
    if found.kind is None or not found.ranks:
        return "no rank differs from the others"
    plural = len(found.ranks) > 1
    who, are = rank_list(found.ranks), "are" if plural else "is"
    if found.kind == "never started":
        return f"{who} never started the program"
    if found.kind == "not reported" or first is None:
        return f"{who} {are} not there: no node has reported on {'them' if plural else 'it'}"
    place = place_of(first["stack"])
    where, top = doing(first), f", in {place}" if place else ""
    if found.kind == "different collectives":
        calls = ", ".join(sorted({call_of(one) for rank in found.ranks if (one := pending_of(by_rank[rank]))}))
        alone = len(found.ranks) == sum(waits(sight) is True for sight in by_rank.values())
        return (
            f"{who} {are} in different collectives: {calls}"
            if alone
            else f"{who} {are} in {calls}, not in that of most"
        )
    return {
        "stopped": f"{who} {are} stopped by a signal {where}",
        "not in the collective": f"{who} {'have' if plural else 'has'} not joined the collective: {where}{top}",
        "does not answer": f"{who} {'do' if plural else 'does'} not answer {where}",
        "behind": f"{who} {are} behind: {where}{top}",
        "blocked": f"{who} {are} blocked in the kernel {where}{top}",
    }[found.kind]
