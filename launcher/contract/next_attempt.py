"""What follows an attempt of a run that keeps going: the end, the same job again, or a successor.

`decide` is a pure function of the attempts so far and the policy. The job calls it after the verdict and acts on it;
`launcher status` reads the attempts in the same way to describe the run's history.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Optional, cast, get_args

from . import rank_ends
from .files import read_lines, read_object
from .paths import AttemptPaths
from .records.ranks import StartRecord
from .records.request import RetryPolicy
from .records.result import NextAction, NextAttempt

Kind = Literal[
    "finished",
    "asked",
    "cancelled",
    "superseded",
    "user error",
    "diverged",
    "time limit",
    "preempted",
    "requeued",
    "program",
    "machine",
]
"""Why an attempt ended, as far as the next step depends on it. `program` may happen again in the same way, `machine`
stands for everything that another attempt need not meet: hardware, network, lost peers, killed processes, hangs."""

NOT_COUNTED = ("preempted", "requeued")
"""Ends from outside that say nothing about the run; they count neither as progress nor as its absence."""

BACKOFF_LIMIT_S = 600.0

_ENDS: Mapping[str, str] = {
    "finished": "the training is complete",
    "asked": "it was asked to stop",
    "cancelled": "it was cancelled",
    "superseded": "another attempt owns the run",
    "user error": "the request is wrong, and another attempt would fail in the same way",
}

_CERTAIN = 100
"""Strikes of a failure that leaves no doubt about the node."""

_OF_THE_NODE: Mapping[str, int] = {"hardware": _CERTAIN, "container": 1, "hang": 1}
"""Strikes of the first failing rank's node for each class of failure (contract/failures.py)."""


class AttemptFacts(NamedTuple):
    """What is known of an attempt that has ended."""

    name: str
    kind: Kind
    what: str = ""
    """How the first failing rank ended, without the details: two failures with the same words are the same failure."""
    iteration: Optional[int] = None
    """The last one that the first failing rank has completed, or any rank where that is not known."""
    saves: tuple[int, ...] = ()
    """The iterations of its checkpoints."""
    diverged_at: Optional[int] = None
    ended: float = 0.0
    blamed: tuple[tuple[str, int], ...] = ()
    """Nodes (Slurm's names) that the failure points at, each with its strikes."""


class Decision(NamedTuple):
    """What is to be done next, and why."""

    action: NextAction
    reason: str
    delay_s: float = 0.0
    exclude: tuple[str, ...] = ()
    """Nodes that a successor must not get."""
    ckpt_step: Optional[int] = None
    """The checkpoint from which a diverged run is to continue: newer ones are set aside."""


def decide(
    attempts: Sequence[AttemptFacts],
    policy: Optional[RetryPolicy],
    *,
    now: float,
    nodes: int,
    excluded: Sequence[str] = (),
    since: int = 0,
) -> Decision:
    """Return what follows the newest of `attempts`, oldest first.

    `nodes` is the number of nodes of the run, `excluded` names those that its job excludes already. Those before
    `since` belong to earlier submissions by hand, and nothing that they did is held against this one. `policy` is None
    for a run that does not keep going.
    """
    last = attempts[-1]
    if policy is None:
        return Decision("end", _ENDS.get(last.kind, "the run does not keep going (--keep-going)"))
    if last.kind == "user error" and any(each.iteration or each.saves for each in attempts[since:-1]):
        # The same request has trained: what is wrong now came from outside, such as a file system or the hub.
        last = last._replace(kind="machine")
        attempts = [*attempts[:-1], last]
    if last.kind in _ENDS:
        return Decision("end", _ENDS[last.kind])
    step = None
    if last.kind == "diverged":
        step = None if last.diverged_at is None else newest_checkpoint(attempts)
        if any(each.kind == "diverged" for each in attempts[since:-1]):
            return Decision("end", "the loss has become not finite a second time")
        if step is None:
            return Decision("end", "no checkpoint is older than the first loss that was not finite")
    elif is_poisoned(attempts[since:]):
        at = "before the first iteration" if last.iteration is None else f"after iteration {last.iteration}"
        return Decision("end", f"poisoned: it has failed in the same way {at} again")
    idle = without_progress(attempts, since)
    if idle >= policy["without_progress"]:
        return Decision("end", f"{idle} attempts in a row have saved nothing new")
    exclude = nodes_to_exclude(attempts, policy, now=now, nodes=nodes)
    waits = idle and last.kind not in NOT_COUNTED
    delay = min(BACKOFF_LIMIT_S, policy["backoff_s"] * 2 ** (idle - 1)) if waits else 0.0
    why = _WHY.get(last.kind, last.kind)
    if set(exclude) - set(excluded):
        return Decision("successor", f"{why}; without {', '.join(exclude)}", delay, exclude, step)
    return Decision("requeue", why, delay, exclude, step)


_WHY: Mapping[str, str] = {
    "diverged": "it continues from the newest checkpoint before the first bad loss",
    "time limit": "its time was over",
    "preempted": "it was preempted",
    "requeued": "it was requeued",
    "program": "the program failed",
    "machine": "a process, node or connection was lost",
}


def newest_checkpoint(attempts: Sequence[AttemptFacts]) -> Optional[int]:
    """Return the newest checkpoint that the next attempt may start from; None where there is none."""
    saved = set[int]()
    for each in attempts:
        saved.update(each.saves)
        if each.kind == "diverged" and each.diverged_at is not None:
            saved = {step for step in saved if step < each.diverged_at}
    return max(saved, default=None)


def made_progress(attempts: Sequence[AttemptFacts]) -> bool:
    """Return whether the newest attempt has left a newer checkpoint than there was before it."""
    before, after = newest_checkpoint(attempts[:-1]), newest_checkpoint(attempts)
    return after is not None and (before is None or after > before)


def without_progress(attempts: Sequence[AttemptFacts], since: int = 0) -> int:
    """Return how many of the newest attempts in a row, back to the one of index `since`, have made no progress."""
    count = 0
    for end in range(len(attempts), since, -1):
        if attempts[end - 1].kind in NOT_COUNTED:
            continue
        if made_progress(attempts[:end]):
            break
        count += 1
    return count


def is_poisoned(attempts: Sequence[AttemptFacts]) -> bool:
    """Return whether the program has failed twice in a row in the same way at the same iteration."""
    counted = [each for each in attempts if each.kind not in NOT_COUNTED]
    if len(counted) < 2 or attempts[-1].kind != "program":
        return False
    before, last = counted[-2:]
    return before.kind == "program" and (before.iteration, before.what) == (last.iteration, last.what)


def nodes_to_exclude(
    attempts: Sequence[AttemptFacts], policy: RetryPolicy, *, now: float, nodes: int
) -> tuple[str, ...]:
    """Return the nodes with enough strikes that have not expired: those with most first, no more than the cap."""
    since = now - policy["strike_hours"] * 3600
    strikes, newest = Counter[str](), dict[str, float]()
    for each in attempts:
        if each.ended >= since:
            for node, count in each.blamed:
                strikes[node] += count
                newest[node] = max(each.ended, newest.get(node, 0.0))
    bad = [node for node, count in strikes.items() if count >= policy["strikes"]]
    bad.sort(key=lambda node: (-strikes[node], -newest[node], node))
    return tuple(bad[: max(1, int(nodes * policy["excluded_percent"] / 100))])


# ---- reading attempts


def facts_of(
    attempt: AttemptPaths, result: Mapping[str, Any], *, ended_by: Optional[str] = None, world_size: int = 0
) -> AttemptFacts:
    """Return the facts of an attempt from its verdict.

    `ended_by` says what ended it from outside, where the verdict does not say so itself: one of `Kind`.
    """
    first = result.get("first_failing_rank") or {}
    kind = kind_of(result, ended_by)
    if kind == "requeued" and lost_nodes(attempt):
        kind = "machine"  # Slurm requeues the job of a lost node
    return AttemptFacts(
        name=attempt.name,
        kind=kind,
        what=str(first.get("what") or "").partition(":")[0],
        iteration=_failed_at(attempt, first.get("rank"), result, world_size),
        saves=saves_of(attempt),
        diverged_at=result.get("diverged_at"),
        ended=float(result.get("ended") or 0.0),
        blamed=blamed(attempt, result, kind, world_size),
    )


def _failed_at(attempt: AttemptPaths, rank: Any, result: Mapping[str, Any], world_size: int) -> Optional[int]:
    node = _node_number(_text(attempt.nodes).split(), rank, world_size)
    record = rank_ends.of_rank(attempt, rank, node).record if isinstance(rank, int) else None
    found = record.get("iteration") if record is not None else result.get("iteration")
    return found if isinstance(found, int) else None


def kind_of(result: Mapping[str, Any], ended_by: Optional[str] = None) -> Kind:
    """Return why an attempt ended. `ended_by` comes before the verdict, except of one that is finished or wrong."""
    outcome, reason = str(result.get("outcome")), str(result.get("reason") or "")
    ended_by = result.get("stopped_by") or ended_by
    first = result.get("first_failing_rank") or {}
    if outcome in ("finished", "superseded"):
        return "finished" if outcome == "finished" else "superseded"
    failure, cause = result.get("failure"), first.get("cause")
    # An error of that class after the first iteration may come from the data of a step: the next attempt shows it.
    wrong = cause == "user" or (cause != "outside" and failure == "user error" and not _trained(result))
    if outcome == "failed" and wrong:
        return "user error"
    if ended_by in get_args(Kind):
        return cast(Kind, ended_by)
    if outcome == "diverged":
        return "diverged"
    if outcome == "stopped":
        return next((kind for pattern, kind in _STOPPED if re.search(pattern, reason)), "asked")
    what = str(first.get("what") or "")
    own_error = cause == "program" or what.startswith("ended with status")
    return "program" if own_error and failure in _OF_THE_PROGRAM else "machine"


def _trained(result: Mapping[str, Any]) -> bool:
    return bool(result.get("iteration"))


_OF_THE_PROGRAM = (None, "out of memory (GPU)", "program error", "user error", "poisoned")
"""Classes of failures (contract/failures.py) that an error of the program itself may have."""


_STOPPED: tuple[tuple[str, Kind], ...] = (
    (r"superseded", "superseded"),
    (r"time limit|exit_duration", "time limit"),
    (r"preempt", "preempted"),
    (r"straggler", "machine"),
)
"""Reasons of ranks that stopped; with any other one somebody asked for it."""


def saves_of(attempt: AttemptPaths) -> tuple[int, ...]:
    """Return the iterations of the checkpoints that an attempt has saved, without those that are seen to be gone."""
    found = [(each.get("iteration"), each.get("directory")) for each in _saves(attempt)]
    return tuple(
        step
        for step, directory in found
        if isinstance(step, int) and not isinstance(step, bool) and not _is_gone(directory, step)
    )


def save_directory(attempt: AttemptPaths) -> Optional[str]:
    """Return the directory in which an attempt has saved checkpoints; None where it has not said that."""
    found = [each.get("directory") for each in _saves(attempt)]
    return next((each for each in reversed(found) if isinstance(each, str) and each), None)


def _saves(attempt: AttemptPaths) -> list[dict[str, Any]]:
    """Return the saves that an attempt has recorded; none where its timeline cannot be read."""
    try:
        return [each for each in read_lines(attempt.timeline) if each.get("event") == "save"]
    except OSError:
        return []


def _is_gone(directory: Any, step: int) -> bool:
    """Return whether a checkpoint is not there. A directory that is not visible from here may hold it."""
    if not isinstance(directory, str) or not directory.startswith("/"):
        return False
    parent = Path(directory)
    return parent.is_dir() and not (parent / f"iter_{step:07d}").exists()


def blamed(
    attempt: AttemptPaths, result: Mapping[str, Any], kind: Kind, world_size: int
) -> tuple[tuple[str, int], ...]:
    """Return the nodes that a failure points at. A failure of the program points at none."""
    if kind != "machine":
        return ()
    if lost := lost_nodes(attempt):
        return tuple((node, 1) for node in lost)
    if result.get("failure") == "hardware" and (checked := _failed_checks(attempt)):
        return checked
    first = result.get("first_failing_rank") or {}
    named = (result.get("evidence") or {}).get("node")  # a host name, which is not always Slurm's
    known = _text(attempt.nodes).split()
    node = named if named in known else node_of(attempt, first.get("rank"), world_size)
    if node is None:
        return ()
    failure, what = str(result.get("failure") or ""), str(first.get("what") or "")
    if failure in _OF_THE_NODE:
        return ((node, _OF_THE_NODE[failure]),)
    killed = what.startswith("killed by signal 9") and not failure
    return ((node, 1),) if killed or first.get("cause") == "network" else ()


def _failed_checks(attempt: AttemptPaths) -> tuple[tuple[str, int], ...]:
    """Return the nodes that have not passed the check of an attempt for which too few have."""
    record = read_object(attempt.node_check) or {}
    nodes = record.get("nodes")
    if record.get("chosen") or not isinstance(nodes, list):
        return ()
    known = [each for each in nodes if isinstance(each, dict) and isinstance(each.get("node"), str)]
    return tuple((each["node"], _CERTAIN if each.get("failed") else 1) for each in known if not _passed(each))


def _passed(checked: Mapping[str, Any]) -> bool:
    return bool(checked.get("answered")) and not checked.get("failed")


def lost_nodes(attempt: AttemptPaths) -> tuple[str, ...]:
    """Return the nodes that Slurm has lost while the attempt ran, as srun says."""
    return tuple(dict.fromkeys(re.findall(r"Node failure on ([A-Za-z0-9._-]+)", _text(attempt.srun_log))))


def node_of(attempt: AttemptPaths, rank: Any, world_size: int) -> Optional[str]:
    """Return Slurm's name of the node of a rank; None where that is not known. Ranks fill one node after the other."""
    names = _text(attempt.nodes).split()
    number = _node_number(names, rank, world_size)
    return None if number is None else names[number]


def _node_number(names: Sequence[str], rank: Any, world_size: int) -> Optional[int]:
    if not isinstance(rank, int) or not names or world_size < 1 or world_size % len(names):
        return None
    number = rank // (world_size // len(names))
    return number if 0 <= number < len(names) else None


def read_next(attempt: AttemptPaths) -> Optional[NextAttempt]:
    """Return what was decided after an attempt; None where nothing was, or something else is in its place."""
    found = read_object(attempt.next_file)
    if found is None or found.get("action") not in get_args(NextAction):
        return None
    return cast(NextAttempt, found)


def nonce_of(attempt: AttemptPaths) -> Optional[str]:
    """Return the token of the submission that an attempt belongs to; None where that cannot be read."""
    try:
        return StartRecord.parse(attempt.start.read_text(encoding="utf-8")).nonce
    except (OSError, ValueError):
        return None


def with_token(comment: Optional[str], before: Optional[str], token: str) -> str:
    """Return a job's comment with another token in place of the one `before`: the rest is the user's or the site's."""
    return comment.replace(before, token) if comment and before and before in comment else token


def is_cancelled(events: Iterable[Any]) -> bool:
    """Return whether these names of journal events have a `cancelled` that no `cancel_failed` takes back."""
    count = 0
    for name in events:
        if name == "cancelled":
            count += 1
        elif name == "cancel_failed":
            count = max(0, count - 1)
    return count > 0


def follows_by_itself(before: AttemptPaths, after: AttemptPaths) -> bool:
    """Return whether an attempt continues the one before by itself: its job was requeued, or it is the successor."""
    decided, token = read_next(before), nonce_of(after)
    return token is not None and token in (nonce_of(before), decided["token"] if decided else None)


def _text(path: Any) -> str:
    """Return the text of a file; an empty one where it cannot be read."""
    try:
        return str(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
