"""What the verdict step does about the next attempt: it decides, and writes everything down before sbatch.sh acts."""

import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, get_args

from launcher.contract import next_attempt, verdict
from launcher.contract.files import read_lines, read_object, write_json, write_text
from launcher.contract.next_attempt import AttemptFacts, Decision
from launcher.contract.paths import AttemptPaths, RunPaths
from launcher.contract.records.checkpoints import SetAside
from launcher.contract.records.journal import StartEvent
from launcher.contract.records.ranks import StartRecord
from launcher.contract.records.request import OverrideRecord, RetryPolicy
from launcher.contract.records.result import NextAttempt

_SLURM_SAID = {
    "TIME LIMIT": "time limit",
    "PREEMPTION": "preempted",
    "JOB REQUEUE": "requeued",
    verdict.CANCELLED: "cancelled",
}
"""What slurmstepd writes into sbatch.log about the end of a job, and the kind of end that it stands for."""


def plan_next(
    run: RunPaths, attempt: AttemptPaths, result: Mapping[str, Any], world_size: int, *, killed: bool = False
) -> Optional[NextAttempt]:
    """Decide what follows an attempt, write that down and return it; None for a run that does not keep going.

    Checkpoints that a diverged attempt has spoiled are set aside. `killed` says that Slurm has ended the attempt before
    a verdict. Raises OSError.
    """
    argv = read_object(run.argv_file) or {}
    policy = argv.get("options", {}).get("keep_going")
    if not isinstance(policy, dict):
        return None
    attempts = [each for each in attempts_of(run) if each.name <= attempt.name]
    facts = [
        next_attempt.facts_of(each, result, ended_by=ended_by(run, each, killed), world_size=world_size)
        if each.name == attempt.name
        else past_facts(each, world_size)
        for each in attempts
    ]
    decision = next_attempt.decide(
        facts,
        _policy(policy),
        now=time.time(),
        nodes=max(1, len(_lines(attempt.nodes))),
        excluded=excluded_by_job(attempts),
        since=first_of_submission(attempts),
    )
    return _record(run, attempt, facts, decision, policy, argv.get("overrides", []))


def _policy(values: Mapping[str, Any]) -> RetryPolicy:
    return {
        "without_progress": int(values["without_progress"]),
        "backoff_s": float(values["backoff_s"]),
        "strikes": int(values["strikes"]),
        "strike_hours": float(values["strike_hours"]),
        "excluded_percent": float(values["excluded_percent"]),
        "exclude": values["exclude"],
    }


def attempts_of(run: RunPaths) -> list[AttemptPaths]:
    """Return all attempts, oldest first."""
    if not run.attempts_directory.is_dir():
        return []
    names = sorted(path.name for path in run.attempts_directory.iterdir() if path.name.isdigit())
    return [run.attempt_paths(name) for name in sorted(names, key=int)]


def past_facts(attempt: AttemptPaths, world_size: int) -> AttemptFacts:
    """Return the facts of an earlier attempt, of one without a verdict from what its ranks have left."""
    result = read_object(attempt.result_file)
    if result is None:
        result = dict(verdict.compose(attempt, world_size, -1, now=_modified(attempt.path)))
    before = next_attempt.read_next(attempt)
    return next_attempt.facts_of(attempt, result, ended_by=before["kind"] if before else None, world_size=world_size)


def first_of_submission(attempts: Sequence[AttemptPaths]) -> int:
    """Return the index of the first attempt that the newest one continues by itself, without anybody's --resume."""
    index = len(attempts) - 1
    while index > 0 and next_attempt.follows_by_itself(attempts[index - 1], attempts[index]):
        index -= 1
    return index


def excluded_by_job(attempts: Sequence[AttemptPaths]) -> tuple[str, ...]:
    """Return the nodes that the job of the newest attempt excludes: it may be a successor, submitted for that."""
    token = next_attempt.nonce_of(attempts[-1])
    for before in attempts[:-1]:
        decided = next_attempt.read_next(before)
        if decided is not None and token is not None and decided["token"] == token:
            return tuple(decided["exclude"])
    return ()


def ended_by(run: RunPaths, attempt: AttemptPaths, killed: bool) -> Optional[str]:
    """Return what ended the newest attempt from outside, as a kind of end; None where nothing shows that."""
    if _was_cancelled(run):
        return "cancelled"
    outer = verdict.read_outer_end(attempt)
    if outer is not None:
        return "machine" if outer.cause == "signal" else outer.cause
    return _slurm_said(attempt) if killed else None


def _was_cancelled(run: RunPaths) -> bool:
    """Return whether `launcher cancel` was called after the newest start: by order, as clocks differ."""
    try:
        names = [event.get("event") for event in read_lines(run.journal_file)]
    except OSError:
        return False
    starts = [index for index, name in enumerate(names) if name in get_args(StartEvent)]
    return next_attempt.is_cancelled(names[starts[-1] if starts else 0 :])


def _slurm_said(attempt: AttemptPaths) -> Optional[str]:
    """Return what Slurm says in sbatch.log of the end of this attempt's job, which has not written a verdict."""
    try:
        job = StartRecord.parse(attempt.start.read_text(encoding="utf-8")).job
    except (OSError, ValueError):
        return None
    said = verdict.slurm_words(verdict.said_in_sbatch_log(attempt).splitlines(), job)
    return None if said is None else _SLURM_SAID.get(said, "machine")


def _record(
    run: RunPaths,
    attempt: AttemptPaths,
    facts: Sequence[AttemptFacts],
    decision: Decision,
    policy: Mapping[str, Any],
    overrides: Sequence[OverrideRecord],
) -> NextAttempt:
    token = None
    if decision.action != "end":
        run_token = (next_attempt.nonce_of(attempt) or f"launcher:{run.path.name}:").rpartition(":")[0]
        token = f"{run_token}:{secrets.token_hex(6)}"
        if decision.ckpt_step is not None:
            _set_aside(run, attempt, facts, decision.ckpt_step, overrides)
        # A requeue that Slurm refuses becomes a successor, so its options are written in either case.
        write_text(attempt.successor, "".join(f"{line}\n" for line in (token, *_options(run, decision, token, policy))))
    record: NextAttempt = {
        "version": 1,
        "time": time.time(),
        "kind": facts[-1].kind,
        "action": decision.action,
        "reason": decision.reason,
        "delay_s": decision.delay_s,
        "exclude": list(decision.exclude),
        "ckpt_step": decision.ckpt_step,
        "token": token,
    }
    write_json(attempt.next_file, record)
    return record


def _comment(run: RunPaths, token: str) -> str:
    """Return the comment of the run's job with another token: a site's own recovery reads the rest."""
    plan = read_object(run.plan_file) or {}
    return next_attempt.with_token(dict(plan.get("directives") or ()).get("comment"), plan.get("token"), token)


def _options(run: RunPaths, decision: Decision, token: str, policy: Mapping[str, Any]) -> list[str]:
    """Return sbatch's options for a successor; those on its command line come before those in the script."""
    options = [f"--comment={_comment(run, token)}"]
    exclude = [*([policy["exclude"]] if policy["exclude"] else []), *decision.exclude]
    if decision.exclude:
        options.append(f"--exclude={','.join(exclude)}")
    if decision.delay_s >= 1:
        options.append(f"--begin=now+{round(decision.delay_s)}")
    return options


def _set_aside(
    run: RunPaths, attempt: AttemptPaths, facts: Sequence[AttemptFacts], step: int, overrides: Sequence[OverrideRecord]
) -> None:
    """Set the checkpoints that were saved after the first bad loss aside. Raises OSError."""
    said = [next_attempt.save_directory(each) for each in attempts_of(run)]
    stated = [each["value"] for each in overrides if each.get("key") == "checkpoint.save" and "value" in each]
    # The recipe may set it, too: what the ranks have recorded counts first.
    directory = next((each for each in (*reversed(said), *stated) if isinstance(each, str)), None)
    path = run.checkpoints if directory is None else Path(directory)
    spoiled = {each for one in facts for each in one.saves if each > step}
    for iteration in sorted(spoiled):
        marker: SetAside = {
            "version": 1,
            "time": time.time(),
            "attempt": attempt.name,
            "directory": str(path / f"iter_{iteration:07d}"),
            "iteration": iteration,
            "file": "the checkpoint",
            "reason": f"was saved after the loss had stopped being finite at iteration {facts[-1].diverged_at}",
        }
        write_json(run.set_aside(iteration), marker)


def _lines(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    """Return the text of a file; an empty one where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _modified(path: Path) -> float:
    """Return when a file was written; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
