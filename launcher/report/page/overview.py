"""The section about the status of the run, as in `launcher status`."""

import time
from collections.abc import Sequence
from typing import Any

from launcher._util.errors import LauncherError
from launcher.contract.files import read_text
from launcher.planning.user_code import describe
from launcher.report.page.content import Block, StateBanner, Subject, Table, Text, Tone, facts, text_of
from launcher.watch.history import History, describe_node_check, duration, history_of, span, summary
from launcher.watch.progress_state import clock, number
from launcher.watch.status import Phase, RunStatus, status_of
from launcher.watch.status_table import detail
from launcher.watch.trackers import trackers_of

_TONES: dict[Phase, Tone] = {
    Phase.FINISHED: "good",
    Phase.STARTING: "active",
    Phase.RUNNING: "active",
    Phase.FAILED: "bad",
    Phase.DIVERGED: "bad",
    Phase.LOST: "bad",
    Phase.REFUSED: "bad",
    Phase.QUEUED: "waiting",
    Phase.PREPARED: "waiting",
    Phase.UNSUBMITTED: "waiting",
}
"""Tones of phases; all others ask for attention."""

_NODES_SHOWN = 16
_LEAST_TFLOPS = 0.05


def overview(subject: Subject) -> Sequence[Block]:
    """Return phase, job, size and progress of the run; queries Slurm."""
    (status,), answer = status_of([subject.run], subject.shell)
    history = history_of(status)
    values = status.to_dict()
    last = values["last_sign"]
    blocks: list[Block] = [
        StateBanner(status.phase.value, tone_of(status.phase), _state_text(status, history, subject.now)),
        facts(
            ("Job", " ".join(each for each in (status.job, status.job_state) if each)),
            ("Recipe", values["recipe"]),
            ("Cluster", values["cluster"]),
            ("Nodes", _nodes(subject, values["nodes"])),
            ("Ranks", values["world_size"] or None),
            ("Attempts", _attempts(status)),
            ("Iteration", _iteration(values["iteration"], values["train_iters"])),
            ("Loss", text_of(values["loss"], ".6g")),
            ("Seconds per iteration", text_of(values["seconds_per_iteration"], ".4g")),
            ("TFLOP/s per GPU", _tflops(values["tflops_per_gpu"])),
            ("MFU", _mfu(values["tflops_per_gpu"], number(_plan_of(subject), "peak_tflops"))),
            ("Tokens per second", text_of(values["tokens_per_second"], ",.0f")),
            ("Elapsed", _duration(values["elapsed_s"])),
            ("Time left", _duration(values["seconds_left"])),
            ("Left of the time limit", _duration(values["limit_left_s"])),
            ("Last sign of life", None if last is None or status.phase.over else format_time(last)),
            *trackers_of(subject.run),
            ("Code", describe(_plan_of(subject))),
            ("Run directory", values["run_dir"]),
        ),
    ]
    blocks += _history(history)
    if answer.unreachable:
        blocks.append(Text(f"Slurm did not answer: {answer.unreachable}", "warning"))
    return blocks


def tone_of(phase: Phase) -> Tone:
    """Return the tone of a phase."""
    return _TONES.get(phase, "attention")


def _state_text(status: RunStatus, history: History, now: float) -> str:
    """Return what `launcher status` says of the run; the reason of its end only where the history does not show it."""
    text = detail(status, now)
    result = status.run_state.result
    reason = " ".join(str(result["reason"] or "").split()) if result and "reason" in result else ""
    if history.is_long and reason:
        text = " | ".join(part for part in text.replace(reason, "").split(" | ") if part.strip())
    return text


def _plan_of(subject: Subject) -> dict[str, Any]:
    try:
        return subject.run.plan
    except LauncherError:  # the status says what is wrong with it
        return {}


def _nodes(subject: Subject, planned: int | None) -> str | None:
    """Return how many nodes there are, and which ones where Slurm has given the newest attempt its own."""
    attempt = subject.run.latest_attempt()
    try:
        names = read_text(attempt.nodes).split() if attempt else []
    except (OSError, UnicodeDecodeError):
        names = []
    if not names:
        return None if planned is None else str(planned)
    more = f" and {len(names) - _NODES_SHOWN} more" if len(names) > _NODES_SHOWN else ""
    return f"{len(names)}: {', '.join(names[:_NODES_SHOWN])}{more}"


def _duration(seconds: float | None) -> str | None:
    return None if seconds is None else clock(seconds)


def _mfu(tflops: float | None, peak: float | None) -> str | None:
    """Return the share of the GPU's peak that the model's operations reach; nothing where one of them is unknown."""
    return f"{tflops / peak:.1%} of {peak:g} TFLOP/s" if tflops and peak and tflops >= _LEAST_TFLOPS else None


_HISTORY = ("Attempt", "Iterations", "Time", "End", "Why", "Lost iterations", "Then", "Nodes")


def _history(history: History) -> list[Block]:
    """Return what became of each attempt, and what all of them have cost; nothing for a run with one."""
    if not history.is_long:
        return []
    rows = tuple(
        (
            each.attempt,
            span(each).removeprefix("iterations "),
            duration(each.seconds),
            each.kind,
            each.why or "",
            text_of(each.lost_iterations),
            each.next or each.ended_because or "",
            describe_node_check(each.node_check) if each.node_check else "",
        )
        for each in history.attempts
    )
    return [Text(f"{summary(history)}."), Table("History", _HISTORY, rows, frozenset({"Lost iterations"}))]


def _attempts(status: RunStatus) -> str | None:
    count = status.run_state.attempts
    if count < 2 or status.run_state.attempt is None:
        return str(count) if count else None
    return f"{count}, the newest is {status.run_state.attempt}"


def _iteration(iteration: int | None, total: int | None) -> str | None:
    if iteration is None:
        return None
    return f"{iteration} of {total}" if total else str(iteration)


def _tflops(value: float | None) -> str | None:
    # On a CPU the value has no meaning; the progress line leaves it out as well.
    return f"{value:.1f}" if value is not None and value >= _LEAST_TFLOPS else None


def format_time(seconds: float) -> str:
    """Format a point in time (seconds since the epoch) in the time zone of this machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))
