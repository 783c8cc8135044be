"""The verdict on an attempt, from what its ranks left: composed in the job, or by the launcher where no job could.

The first failing rank is the one to look at: one with an error of its own, or that died without a word, comes before
those which only noticed that a peer was gone; those that were ended after the first failure come last.
"""

import math
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Optional, cast

from launcher.contract import failures, files, flight_recorder, hangs, profiles, rank_ends
from launcher.contract.failures import FailureCause, Level
from launcher.contract.files import read_lines, read_object
from launcher.contract.next_attempt import node_of
from launcher.contract.paths import AttemptPaths, attempt_name
from launcher.contract.patterns import later
from launcher.contract.rank_ends import RankLines
from launcher.contract.records.nodes import CheckedNode, GatesRecord, NodeCheck, NodeHang, RankSight
from launcher.contract.records.ranks import ExitRecord, RankOutcome, RankRecord, StartRecord
from launcher.contract.records.result import (
    STOP_CAUSES,
    SUPERSEDED,
    AttemptResult,
    FailingRank,
    FailureEvidence,
    Notice,
    Outcome,
    ProfilesResult,
    ProgressResult,
    StopCause,
)
from launcher.contract.validation import is_number, problems

CANCELLED = "CANCELLED"
_SLURM_ENDED = later(r"\*\*\* JOB (\d+) ON \S+ CANCELLED AT \S+(?: DUE TO ([A-Z ]+[A-Z]))?[, ]")
DIVERGED_AFTER = 10
"""Number of logged iterations in a row without a finite loss after which a failed attempt counts as diverged."""
SRUN_LOG_BYTES = 256 << 10
CLOCK_S = 120.0
"""More than ranks of one step end apart: srun waits 60 s for the last ones, and kills them 30 s later."""
LOG_BYTES = 64 << 10
"""Bytes that are read of the end of a log."""
SHOWN = 300
"""Characters that a reason quotes of a line."""
MAY_BE_POISONED = ("program error", "user error", "hang", "out of memory (GPU)", "out of memory (host)")
"""The classes of failures that the data of a step can cause."""
NODE_CHECK = "node check"
"""The rule of an attempt for which too few nodes have passed their check."""
GATE = "gate"
"""The rule of an attempt before which a gate has not passed."""
WATCHDOG = "watchdog"
"""The rule of a hang that the launcher's own watchdogs have ended."""
RANKS_READ = 256
"""Ranks whose logs are read, beside the first failing one's."""
# Slurm (--kill-on-bad-exit, --wait, scancel, the time limit) and the local launcher end ranks with these.
TERMINATED, KILLED = 128 + signal.SIGTERM, 128 + signal.SIGKILL


class RankEnd(NamedTuple):
    """The end of one rank, as far as it is known."""

    rank: int
    record: Optional[RankRecord]
    exit: Optional[ExitRecord]
    clock_s: float = 0.0
    """How far the clock of its node is ahead of the others', where that is plain."""

    @property
    def outcome(self) -> Optional[RankOutcome]:
        """finished, stopped, failed; None if the rank said nothing about it."""
        return None if self.record is None else self.record["outcome"]

    @property
    def status(self) -> Optional[int]:
        """The exit status of its program, as bash gives it; None where its step.sh did not see an end."""
        return None if self.exit is None else self.exit["status"]

    @property
    def failed(self) -> bool:
        """Whether it did not end well. A crash after the record of a good end does not count."""
        return self.outcome not in ("finished", "stopped")

    @property
    def missing(self) -> bool:
        """Whether it left nothing at all: its node is lost, or its step.sh was killed with it."""
        return self.record is None and self.exit is None

    @property
    def ended(self) -> bool:
        """Whether it was ended from outside, without a record of its own."""
        return self.record is None and self.status in (TERMINATED, KILLED)

    @property
    def superseded(self) -> bool:
        """Whether it ended because another attempt owned the run."""
        reason = self.record.get("reason") if self.record is not None and self.outcome == "stopped" else None
        return str(reason).startswith(SUPERSEDED)

    @property
    def lost_peers(self) -> bool:
        """Whether it failed because communication did."""
        return self.record is not None and self.outcome == "failed" and self.record.get("cause") == "communication"

    @property
    def time(self) -> float:
        """When it failed; infinity where that is unknown."""
        if self.record is not None and self.outcome == "failed" and is_number(self.record.get("time")):
            return float(self.record["time"]) - self.clock_s
        return self.exit["time"] - self.clock_s if self.exit else float("inf")

    @property
    def host(self) -> Optional[str]:
        """Where it ran; None where that is unknown."""
        host = self.record.get("host") if self.record else None
        return str(host) if host else self.exit["host"] if self.exit else None


def read_whole_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines; none where it cannot be read."""
    try:
        return read_lines(path)
    except OSError:
        return []


def read_ranks(attempt: AttemptPaths, world_size: int) -> list[RankEnd]:
    """Return the end of every rank."""
    found = rank_ends.of_attempt(attempt)
    ranks = [RankEnd(rank, *found.get(rank, RankLines())) for rank in range(world_size)]
    wrong = wrong_clocks(ranks)
    return [rank._replace(clock_s=wrong[rank.host]) if rank.host in wrong else rank for rank in ranks]


def wrong_clocks(ranks: list[RankEnd]) -> dict[str, float]:
    """Return the nodes whose clock is plainly wrong, and by how many seconds it is ahead.

    Times of two nodes can be compared only if their clocks agree. All ranks of a step end at about the same time, so a
    node whose last rank ended CLOCK_S or more away from that of most nodes has another clock.
    """
    last: dict[str, float] = {}
    for rank in ranks:
        if rank.exit is not None and rank.host is not None:
            last[rank.host] = max(rank.exit["time"], last.get(rank.host, rank.exit["time"]))
    if len(last) < 2:
        return {}
    import statistics  # here, not at the top: `launcher status` imports this module

    usual = statistics.median_low(last.values())
    return {host: time - usual for host, time in last.items() if abs(time - usual) >= CLOCK_S}


def first_failing(ranks: list[RankEnd]) -> Optional[RankEnd]:
    """Return the rank to look at first; None if none failed."""
    failing = [rank for rank in ranks if rank.failed]
    if not failing:
        return None
    # Where one rank fails in earnest, one that had finished and crashed while leaving may have pulled it down.
    crashed = [rank for rank in ranks if not rank.failed and rank.status not in (None, 0)]
    causes = [rank for rank in failing + crashed if not rank.ended]
    ended_first = [rank for rank in failing if rank.ended and not is_consequence(rank, causes)]
    if ended_first:
        return min(ended_first, key=by_time)
    return min(causes or failing, key=by_kind_and_time)


def is_consequence(ended: RankEnd, causes: list[RankEnd]) -> bool:
    """Return whether a rank was ended from outside because another one had failed.

    Not if it came first: the kernel's out-of-memory killer, or an operator. A peer may write down its lost connection
    before step.sh sees why it was lost, but no rank is ended for it before that peer has exited: that time counts.
    """
    if ended.status == TERMINATED and any(rank.missing for rank in causes):
        return True
    exits = [rank.exit["time"] if rank.lost_peers and rank.exit else rank.time for rank in causes]
    return any(ended.time > each for each in exits)


def by_time(rank: RankEnd) -> tuple[float, int]:
    """Return a key that sorts by time, then by rank."""
    return rank.time, rank.rank


def by_kind_and_time(rank: RankEnd) -> tuple[int, float, int]:
    """Return a key that sorts failing ranks: own errors and deaths, those that left nothing, lost peers.

    A wrong network is an error of the rank's own.
    """
    return 2 if rank.lost_peers else 1 if rank.missing else 0, rank.time, rank.rank


def what(rank: RankEnd) -> str:
    """Return how a failing rank ended, in a few words."""
    exception = rank.record.get("exception") if rank.record else None
    if rank.outcome == "failed" and isinstance(exception, dict):
        # A wrong request or network is said in a sentence of its own; anything else is known by its exception.
        own_sentence = rank.record is not None and rank.record.get("cause") in ("user", "outside", "network")
        kind = "" if own_sentence else f"{exception.get('type')}: "
        return f"{kind}{exception.get('message')}"
    if rank.status is None:
        return "left no record"
    after = f" after it had {rank.outcome}" if rank.record else ""
    if rank.status > 128:
        return f"killed by {signal_name(rank.status - 128)}{after}"
    return f"ended with status {rank.status}{after or ' without a record'}"


def ending(rank: RankEnd) -> str:
    """Return how any rank ended, and when: `finished at iteration 20`."""
    iteration = rank.record.get("iteration") if rank.record else None
    return f"{what(rank) if rank.failed else rank.outcome}{'' if iteration is None else f' at iteration {iteration}'}"


def where(rank: RankEnd) -> Optional[str]:
    """Return file and line of a failing rank's exception, if its record has them."""
    exception = rank.record.get("exception") if rank.record else None
    return exception.get("where") if isinstance(exception, dict) else None


def signal_name(number: int) -> str:
    """Return a signal's number with its name: `signal 9 (SIGKILL)`."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def not_finite_at_end(metrics: list[dict[str, Any]]) -> list[int]:
    """Return the last logged iterations, oldest first, as far back as their loss is not finite.

    Iterations that fp16's loss scaler skipped do not count: they change no weight. A loss that was not logged is
    unknown, and not a sign of divergence.
    """
    found = []
    for line in reversed(metrics):
        if line.get("skipped") is True or not is_number(line.get("iteration")):
            continue
        if not loss_is_not_finite(line):
            break
        found.append(int(line["iteration"]))
    return found[::-1]


def loss_is_not_finite(line: dict[str, Any]) -> bool:
    """Return whether an iteration's loss was NaN or infinite: written so, or null and named in `not_finite`."""
    loss, names = line.get("loss"), line.get("not_finite")
    if isinstance(loss, float):
        return not math.isfinite(loss)
    return loss is None and isinstance(names, list) and "loss" in names


def last_known_good(metrics: list[dict[str, Any]], timeline: list[dict[str, Any]]) -> int:
    """Return the last iteration whose loss was logged and finite, else the one from which the attempt began, else 0.

    Where the program itself found NaN and ended, no bad loss was logged: any iteration after this one may be the first.
    """
    loaded = [line for line in timeline if line.get("event") == "checkpoint_loaded"]
    good = [line for line in metrics if line.get("loss") is not None and not loss_is_not_finite(line)]
    return max((int(line["iteration"]) for line in loaded + good if is_number(line.get("iteration"))), default=0)


class OuterEnd(NamedTuple):
    """What ended an attempt from outside, and when that was known; infinity where only the file `stop` shows it."""

    cause: StopCause
    time: float = float("inf")

    def explains(self, rank: RankEnd) -> bool:
        """Return whether a failed rank may have been ended for this cause: it has no error of its own from before."""
        if self.cause == "asked":
            return False
        if rank.missing or rank.lost_peers:
            return True
        if not rank.ended or rank.exit is None:
            return False
        return rank.status == TERMINATED or rank.exit["time"] >= self.time


def read_outer_end(attempt: AttemptPaths) -> Optional[OuterEnd]:
    """Return what ended an attempt from outside, as sbatch.sh or the file `stop` says; None where nothing did."""
    notice = read_object(attempt.notice)
    if notice is not None and not any(problems(notice, Notice, unknown_keys=True)):
        return OuterEnd(notice["why"], float(notice["time"]))
    try:
        asked = attempt.stop.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return OuterEnd(cast(StopCause, asked) if asked in STOP_CAUSES else "asked")


def outcome_of(ranks: list[RankEnd], not_finite: list[int], outer: Optional[OuterEnd] = None) -> Outcome:
    """Return the attempt's outcome: one failed rank makes it failed, one stopped rank makes it stopped.

    Ranks that Slurm has ended with their job (`outer`) did not fail.

    `not_finite` holds the last iterations, as `not_finite_at_end` returns them. They make it diverged where the ranks
    ended well, and where a failure came after many of them, which is then a consequence.
    """
    failed = any(rank.failed for rank in ranks)
    if len(not_finite) >= (DIVERGED_AFTER if failed else 1):
        return "diverged"
    if failed:
        stopped = outer is not None and all(outer.explains(rank) for rank in ranks if rank.failed)
        return "stopped" if stopped else "failed"
    return "stopped" if any(rank.outcome == "stopped" for rank in ranks) else "finished"


def progress_of(metrics: list[dict[str, Any]], ranks: list[RankEnd]) -> ProgressResult:
    """Return the last iteration, the loss of the last logged one, and the median time of an iteration.

    A loss that is missing or not finite is not replaced by that of an earlier iteration.
    """
    import statistics

    said = [rank.record["iteration"] for rank in ranks if rank.record and is_number(rank.record.get("iteration"))]
    logged = [line["iteration"] for line in metrics if is_number(line.get("iteration"))]
    loss = next((line.get("loss") for line in reversed(metrics) if is_number(line.get("iteration"))), None)
    totals = [line["train_iters"] for line in metrics if is_number(line.get("train_iters"))]
    seconds = [line["seconds"] for line in metrics if is_number(line.get("seconds"))]
    return {
        "iteration": max(said + logged, default=None),
        "train_iters": totals[-1] if totals else None,
        "loss": loss if is_number(loss) else None,
        "seconds_per_iteration": statistics.median(seconds) if seconds else None,
        "diverged_at": next(iter(not_finite_at_end(metrics)), None),
    }


def reason_of(
    ranks: list[RankEnd], first: Optional[RankEnd], step_status: int, diverged_at: Optional[int], *, began: bool
) -> Optional[str]:
    """Return why the attempt stopped, as the ranks say, or how the first failing rank ended.

    `diverged_at` is the iteration at which the loss of a diverged attempt stopped being finite, else None. `began` says
    whether the program has given a sign.
    """
    if diverged_at is not None:
        failure = "" if first is None else f"; then rank {first.rank}: {what(first)}"
        return f"the loss was not finite from iteration {diverged_at} on{failure}"
    if all(rank.missing for rank in ranks):
        when = "" if began else " before the program began"
        return f"no rank left a record: the step ended with status {step_status}{when}"
    if first is not None:
        return f"rank {first.rank}: {what(first)}"
    reasons = [rank.record.get("reason") for rank in ranks if rank.record and rank.outcome == "stopped"]
    crashed = [f"rank {rank.rank}: {what(rank)}" for rank in ranks if rank.status not in (None, 0)]
    return next((str(reason) for reason in reasons + crashed if reason), None)


def stop_reason(outer: OuterEnd, ranks: list[RankEnd]) -> str:
    """Return why an attempt was stopped, and how many of its ranks had not ended by themselves by then."""
    said = next((rank.record["reason"] for rank in ranks if rank.record and rank.superseded), None)
    cause = said or ("requested" if outer.cause == "asked" else outer.cause)
    if all(rank.missing for rank in ranks):
        return f"{cause}; no rank has left a record"
    killed = sum(rank.failed for rank in ranks)
    return f"{cause}; {killed} of {len(ranks)} ranks were ended before they had stopped" if killed else cause


def failure_of(attempt: AttemptPaths, ranks: list[RankEnd], first: Optional[RankEnd]) -> Optional[FailureCause]:
    """Return the cause of a failure, from what the ranks, srun and Slurm have left; None where nothing names one.

    The rank to look at first counts most; the others, srun.log and sbatch.log are asked where it only lost its peers,
    or said nothing.
    """
    if (lacking := too_few_nodes(attempt) or failed_gate(attempt)) is not None:
        return lacking
    if first is not None and first.record is not None and first.record.get("cause") == "user":
        return failures.request_error(what(first))
    sources = [_said_by(attempt, first)] if first else []
    found = failures.classify(*sources)
    if found is None or found.level > Level.ERROR:
        others = [_said_by(attempt, rank) for rank in ranks if rank.failed and rank is not first][:RANKS_READ]
        outside = _tail(attempt.srun_log, SRUN_LOG_BYTES), said_in_sbatch_log(attempt)
        found = failures.classify(*sources, *outside, *others)
    if found is None:
        return failures.unnamed_error(what(first)) if first and first.record and first.outcome == "failed" else None
    return _hang_with_ranks(found, attempt, ranks) if found.failure == "hang" else found


def too_few_nodes(attempt: AttemptPaths) -> Optional[FailureCause]:
    """Return the cause of an attempt that did not begin because too few nodes have passed their check, else None."""
    check = read_node_check(attempt)
    if check is None or check["chosen"]:
        return None
    bad = [each for each in check["nodes"] if each["failed"] or not each["answered"]]
    passed = len(check["nodes"]) - len(bad)
    words = f"{passed} of {len(check['nodes'])} nodes have passed the check, and {check['needed']} are needed"
    return FailureCause(
        failure="hardware",
        line="; ".join([words, *(describe_node(each) for each in bad)]),
        rule=NODE_CHECK,
        level=Level.CAUSE,
        todo=failures.CLASSES["hardware"].todo,
        node=bad[0]["node"] if bad else None,
    )


def failed_gate(attempt: AttemptPaths) -> Optional[FailureCause]:
    """Return the cause of an attempt that did not begin because a gate before it has not passed, else None.

    A program that did not start, or was ended for its memory, says nothing about the network.
    """
    record = read_object(attempt.gates)
    if record is None or any(problems(record, GatesRecord, unknown_keys=True)):
        return None
    failed = [gate for gate in cast(GatesRecord, record)["gates"] if not gate["passed"] and gate["when"] == "before"]
    if not failed:
        return None
    if not failed[0]["started"]:
        return FailureCause(
            failure="user error",
            line=f"gate {failed[0]['name']}: {failed[0]['reason']}",
            rule=GATE,
            level=Level.CAUSE,
            todo="name a program that the nodes have, by its whole path, or an image that has it",
        )
    shown = failures.classify(failed[0]["reason"])
    of_network = "look at gates/NAME.txt of the attempt; `launcher doctor` tests the network between the nodes"
    of_program = "look at gates/NAME.err of the attempt: each attempt would fail in the same way"
    if not failed[0]["measures"] and shown is None:
        return FailureCause(
            "user error", f"gate {failed[0]['name']}: {failed[0]['reason']}", GATE, Level.CAUSE, of_program
        )
    return FailureCause(
        failure=shown.failure if shown else "network",
        line=f"gate {failed[0]['name']}: {failed[0]['reason']}",
        rule=GATE,
        level=Level.CAUSE,
        todo=shown.todo if shown else of_network,
    )


def read_node_check(attempt: AttemptPaths) -> Optional[NodeCheck]:
    """Return which nodes of a job with spare ones train, and why; None where nothing was checked."""
    record = read_object(attempt.node_check)
    if record is None or any(problems(record, NodeCheck, unknown_keys=True)):
        return None
    return cast(NodeCheck, record)


def describe_node(checked: CheckedNode) -> str:
    """Return what the check of a node has found, in words: `n1: gpus: 7 of 8`."""
    if not checked["answered"]:
        return f"{checked['node']}: no answer"
    return f"{checked['node']}: {', '.join(f'{name}: {why}' for name, why in checked['failed'].items()) or 'passed'}"


class WatchedHang(NamedTuple):
    """A hang that the watchdogs of an attempt's nodes have ended."""

    cause: FailureCause
    """`ranks` are those that the others waited for; none where no rank differs."""
    sight: Optional[RankSight]
    """Of the first of these ranks, where a node has reported it."""
    host: Optional[str]
    """The name of that node."""


_WEAK_SIGNS = (None, "behind", "blocked")
"""Kinds of culprits (contract/hangs.py) for which the whole flight recorders of the ranks may show more."""


def watched_hang(attempt: AttemptPaths, ranks: list[RankEnd]) -> Optional[WatchedHang]:
    """Return the hang that the watchdogs of an attempt's nodes have ended; None where they have ended none.

    Where a rank had ended by itself before, the others waited for it, and its end is the cause.
    """
    nodes = hang_records(attempt)
    if not any(node["stage"] == "ended" for node in nodes):
        return None
    if any(_had_ended(rank, node) for rank in ranks for node in nodes):
        return None
    sights = {sight["rank"]: sight for node in nodes for sight in node["ranks"]}
    unseen = [rank.rank for rank in ranks if rank.rank not in sights and rank.failed]
    found, what = hangs.culprits(list(sights.values()), unseen), ""
    if found.kind in _WEAK_SIGNS or len(found.ranks) == len(ranks) > 1:
        stuck = flight_recorder.analyse(flight_recorder.read_directory(attempt.stacks)[0], len(ranks))
        if stuck is not None and stuck.kind == "different":
            found, what = hangs.Culprits(stuck.ranks, "different collectives"), flight_recorder.describe(stuck)
    silent_s = max(node["silent_s"] for node in nodes if node["stage"] == "ended")
    pending = [one for sight in sights.values() if (one := hangs.pending_of(sight)) is not None]
    cause = FailureCause(
        failure="hang",
        line=hangs.sentence(found, list(sights.values()), silent_s, what),
        rule=WATCHDOG,
        level=Level.CAUSE,
        todo=failures.CLASSES["hang"].todo,
        ranks=found.ranks,
        collective=hangs.call_of(pending[0]) if pending else None,
    )
    first = sights.get(found.ranks[0]) if found.ranks else None
    return WatchedHang(cause, first, next((node["host"] for node in nodes if first in node["ranks"]), None))


_RECORDING_S = 1.0
"""The watchdog writes its record, then ends the ranks: ends before that by more than this are their own."""


def _had_ended(rank: RankEnd, node: NodeHang) -> bool:
    """Return whether a rank of the node had failed, not for want of its peers, before the watchdog ended the ranks."""
    own = rank.failed and not rank.lost_peers and rank.host == node["host"]
    return own and node["stage"] == "ended" and rank.time + rank.clock_s < node["time"] - _RECORDING_S


def hang_records(attempt: AttemptPaths) -> list[NodeHang]:
    """Return what the watchdogs of an attempt's nodes have recorded; nothing of a record of another form."""
    try:
        paths = sorted(attempt.stacks.glob("node-*.json"))
    except OSError:
        return []
    found = [read_object(path) for path in paths]
    return [cast(NodeHang, one) for one in found if one is not None and not any(problems(one, NodeHang))]


def _said_by(attempt: AttemptPaths, rank: RankEnd) -> str:
    """Return a failing rank's exception, else the end of its log."""
    exception = rank.record.get("exception") if rank.record else None
    if rank.outcome == "failed" and isinstance(exception, dict):
        return f"{exception.get('type')}: {exception.get('message')}"
    # A rank that was ended from outside has nothing to say: what its log shows it has survived.
    return "" if rank.ended else _tail(attempt.log(rank.rank), LOG_BYTES)


def _tail(path: Path, size: int) -> str:
    """Return the last bytes of a log; none where it cannot be read."""
    try:
        with files.open_regular(path) as file:
            file.seek(max(0, file.seek(0, 2) - size))
            return file.read(size).decode(errors="replace")
    except OSError:
        return ""


def said_in_sbatch_log(attempt: AttemptPaths) -> str:
    """Return the end of an attempt's part of sbatch.log: all attempts of a run share the file."""
    following = (
        attempt.path.with_name(attempt_name(int(attempt.name) + 1)) if attempt.name.isdecimal() else attempt.path
    )
    start, end = _log_bytes(attempt.start), _log_bytes(following / attempt.start.name)
    try:
        with files.open_regular(attempt.path.parents[1] / "sbatch.log") as file:
            size = file.seek(0, 2)
            # A part may be empty; a file that is shorter than a part's beginning was written anew.
            begin = start if start is not None and start <= size else 0
            end = end if end is not None and begin <= end <= size else size
            file.seek(max(begin, end - LOG_BYTES))
            return file.read(end - file.tell()).decode(errors="replace")
    except OSError:
        return ""


def slurm_words(lines: Iterable[str], job: Optional[str]) -> Optional[str]:
    """Return why Slurm ended this job, by the last such line of sbatch.log: `TIME LIMIT`; `CANCELLED` without a reason.

    slurmstepd writes there `*** JOB 12 ON n1 CANCELLED AT 2026-01-31T10:00:00 DUE TO TIME LIMIT ***`, without `DUE TO`
    for a job that was cancelled; `STEP 12.0` in place of `JOB 12` says nothing about the job, since srun ends a step
    whose task has failed. Source: Slurm, src/slurmd/slurmstepd/req.c.
    """
    found = None
    for line in lines:
        match = _SLURM_ENDED.search(line)
        if match and match[1] == job:
            found = match[2] or CANCELLED
    return found


def _log_bytes(start: Path) -> Optional[int]:
    """Return the size that sbatch.log had at the start of an attempt; None where that is not known."""
    try:
        return StartRecord.parse(start.read_text(encoding="utf-8")).log_bytes
    except (OSError, ValueError):
        return None


def _hang_with_ranks(found: FailureCause, attempt: AttemptPaths, ranks: list[RankEnd]) -> FailureCause:
    """Return the finding with the ranks that did not come: by the flight recorder, else those that report nothing."""
    stuck = flight_recorder.analyse(flight_recorder.read_directory(attempt.stacks)[0], len(ranks))
    if stuck is not None:
        return found._replace(line=flight_recorder.describe(stuck), ranks=stuck.ranks, collective=stuck.name)
    if found.ranks:
        return found
    waited = {rank.rank for rank in ranks if rank.failed and not rank.ended and _waited_in_vain(attempt, rank)}
    silent = tuple(rank.rank for rank in ranks if rank.rank not in waited)
    return found._replace(ranks=silent) if waited and silent else found


def _waited_in_vain(attempt: AttemptPaths, rank: RankEnd) -> bool:
    own = failures.classify(_said_by(attempt, rank))
    return own is not None and own.level >= Level.LINK


def failed_there_before(attempt: AttemptPaths, failure: FailureCause, iteration: Optional[int]) -> bool:
    """Return whether the attempt before failed after the same iteration, and neither failure points at a machine."""
    if iteration is None or failure.failure not in MAY_BE_POISONED or not attempt.name.isdecimal():
        return False
    before = read_object(attempt.path.with_name(attempt_name(int(attempt.name) - 1)) / attempt.result_file.name) or {}
    return (
        before.get("outcome") == "failed"
        and before.get("iteration") == iteration
        and before.get("failure") in (None, "poisoned", *MAY_BE_POISONED)
    )


def with_evidence(reason: str, failure: FailureCause) -> str:
    """Return why the attempt ended, with the line that names the cause unless the reason has it already."""
    shown = failure.line if len(failure.line) <= SHOWN else f"{failure.line[: SHOWN - 3]}..."
    if failure.rule == WATCHDOG:
        return f"hang: {failure.line}"
    if failure.rule == NODE_CHECK:
        return shown
    if failure.failure == "hang" and failure.ranks:
        return (
            f"{flight_recorder.numbers(failure.ranks)} did not come to {failure.collective or 'a collective'} ({shown})"
        )
    return reason if shown in reason or failure.line in reason else f"{reason} ({shown})"


def evidence_of(failure: FailureCause) -> FailureEvidence:
    """Return what names the cause of a failure, and what to do."""
    return {
        "rule": failure.rule,
        "line": failure.line,
        "node": failure.node,
        "ranks": list(failure.ranks) or ([] if failure.rank is None else [failure.rank]),
        "collective": failure.collective,
        "todo": failure.todo,
    }


def rank_to_look_at(
    attempt: AttemptPaths,
    ranks: list[RankEnd],
    first: Optional[RankEnd],
    failure: Optional[FailureCause],
    hang: Optional[WatchedHang] = None,
) -> Optional[FailingRank]:
    """Return the first failing rank; of a hang the one that did not come, since the others were ended for it.

    Watchdogs have seen the `hang`. Where its ranks do not differ there is none.
    """
    if failure is not None and failure.rule == NODE_CHECK:
        return None
    if failure is not None and hang is not None:
        if not failure.ranks or failure.ranks[0] >= len(ranks):
            return None
        stuck = ranks[failure.ranks[0]]
        place = hangs.place_of(hang.sight["stack"]) if hang.sight else ""
        # Without the time, so that two hangs of the same kind read the same.
        words = failure.line.rpartition("; no progress")[0]
        host = host_of(attempt, stuck, len(ranks)) or hang.host
        return {"rank": stuck.rank, "host": host, "what": words, "where": place or None, "cause": None}
    if failure is not None and failure.failure == "hang" and failure.ranks and failure.ranks[0] < len(ranks):
        stuck = ranks[failure.ranks[0]]
        words = f"did not come to {failure.collective or 'a collective'}"
        host = host_of(attempt, stuck, len(ranks))
        return {"rank": stuck.rank, "host": host, "what": words, "where": where(stuck), "cause": None}
    if first is None:
        return None
    cause = first.record.get("cause") if first.record else None
    host = host_of(attempt, first, len(ranks))
    return {"rank": first.rank, "host": host, "what": what(first), "where": where(first), "cause": cause}


def host_of(attempt: AttemptPaths, rank: RankEnd, world_size: int) -> Optional[str]:
    """Return where a rank ran: by what it left, else by the list of the attempt's nodes."""
    return rank.host or node_of(attempt, rank.rank, world_size)


def profiles_of(attempt: AttemptPaths, ranks: list[RankEnd]) -> Optional[ProfilesResult]:
    """Return what became of the profiles that were asked for; None if none were."""
    return profiles.result(attempt, len(ranks), lambda rank: ending(ranks[rank]))


def compose(attempt: AttemptPaths, world_size: int, step_status: int, now: float) -> AttemptResult:
    """Return the content of result.json."""
    ranks = read_ranks(attempt, world_size)
    first = first_failing(ranks)
    metrics = read_whole_lines(attempt.metrics)
    outer = OuterEnd(SUPERSEDED) if any(rank.superseded for rank in ranks) else read_outer_end(attempt)
    if too_few_nodes(attempt) or failed_gate(attempt):
        outer = None  # what kept the ranks from starting came first
    outcome = outcome_of(ranks, not_finite_at_end(metrics), outer)
    progress = progress_of(metrics, ranks)
    timeline = read_whole_lines(attempt.timeline)
    diverged_at = progress["diverged_at"] if outcome == "diverged" else None
    reason = reason_of(ranks, first, step_status, diverged_at, began=bool(metrics or timeline))
    if outcome == "stopped" and outer is not None:
        reason = stop_reason(outer, ranks)
        first = None
    times = [line["time"] for line in timeline if is_number(line.get("time"))]
    saves = [line["iteration"] for line in timeline if line.get("event") == "save" and is_number(line.get("iteration"))]
    hang = watched_hang(attempt, ranks) if outcome == "failed" else None
    failure = hang.cause if hang else failure_of(attempt, ranks, first) if outcome == "failed" else None
    if failure is not None and failure.failure == "diverged":
        outcome = "diverged"
        if progress["diverged_at"] is None:
            progress = {**progress, "diverged_at": last_known_good(metrics, timeline) + 1}
    elif failure is not None and failed_there_before(attempt, failure, progress["iteration"]):
        failure = failures.poisoned(failure)
    if failure is not None:
        reason = with_evidence(str(reason), failure)
        named = first if failure.rank is None or failure.rank >= world_size else ranks[failure.rank]
        if failure.failure == "hardware" and failure.node is None and named is not None:
            failure = failure._replace(node=host_of(attempt, named, world_size))
    return {
        "version": 1,
        "attempt": attempt.name,
        "outcome": outcome,
        "reason": reason,
        "stopped_by": outer.cause if outer is not None and outcome == "stopped" else None,
        "checkpoint": saves[-1] if saves else None,
        "failure": failure.failure if failure else None,
        "evidence": evidence_of(failure) if failure else None,
        **progress,
        "first_failing_rank": rank_to_look_at(attempt, ranks, first, failure, hang),
        "failed_ranks": [rank.rank for rank in ranks if rank.failed],
        "missing_ranks": [rank.rank for rank in ranks if rank.missing],
        "profiles": profiles_of(attempt, ranks),
        "step_status": step_status,
        "started": min(times, default=None),
        "ended": max((rank.exit["time"] for rank in ranks if rank.exit), default=now),
    }
