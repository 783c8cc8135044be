"""Printing what came of a run."""

from typing import Any

from launcher.cli.output import coloured, info
from launcher.rundir import RunDirectory

_TAIL_LINES = 20


def print_outcome(run: RunDirectory, outcome: dict[str, Any]) -> None:
    """Print the outcome in a few lines; of a failure the first failing rank and the end of its log."""
    word = outcome["outcome"]
    first = outcome.get("first_failing_rank") or {}
    colour = {"finished": "green", "stopped": "yellow"}.get(word, "red")
    # A failure's reason is its first failing rank, which is printed below.
    said_below = bool(first) and word == "failed"
    reason = f" ({outcome['reason']})" if outcome.get("reason") and not said_below else ""
    info(f"{coloured(word, colour)}{reason}{_numbers(outcome)}")
    if first:
        place = first.get("where")
        where = f"{place}: " if place and place not in first["what"] else ""
        if first.get("cause") == "user":
            info(f"{coloured('error:', 'red')} {where}{first['what']}")
        else:
            host = first.get("host") or "an unknown host"
            info(f"first failing rank: {first['rank']} on {host}: {where}{first['what']}")
            _tail(run, int(first["rank"]))
            _print_cause(outcome, first["what"])
    elif word == "unknown":
        _tail(run, None)
    info(f"run directory: {run.path}")


def _print_cause(outcome: dict[str, Any], shown: str) -> None:
    """Print the class of a failure, the line that decided unless it was shown, and what to do."""
    evidence = outcome.get("evidence")
    if not evidence:
        return
    node = f" on {evidence['node']}" if evidence["node"] else ""
    line = "" if evidence["line"] in shown else f": {evidence['line']}"
    info(f"cause: {outcome['failure']}{node}{line}")
    info(f"what to do: {evidence['todo']}")


def _numbers(outcome: dict[str, Any]) -> str:
    parts = []
    if outcome.get("iteration") is not None:
        of = f" of {outcome['train_iters']}" if outcome.get("train_iters") else ""
        parts.append(f"iteration {outcome['iteration']}{of}")
    if outcome.get("loss") is not None:
        parts.append(f"loss {outcome['loss']:.6g}")
    if outcome.get("seconds_per_iteration") is not None:
        parts.append(f"{outcome['seconds_per_iteration']:.3f} s per iteration")
    return f": {', '.join(parts)}" if parts else ""


def _tail(run: RunDirectory, rank: int | None) -> None:
    attempt = run.latest_attempt()
    log = run.sbatch_log if rank is None or attempt is None else attempt.log(rank)
    if not log.is_file():
        return
    lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    info(f"the last {len(lines)} lines of {log}:")
    for line in lines:
        info(f"  {coloured(line, 'dim')}")
