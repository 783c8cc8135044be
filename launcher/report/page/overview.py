"""The section about the status of the run, as in `launcher status`."""

import time
from collections.abc import Sequence

from launcher.report.page.content import Block, Subject, Table, Text, facts, text_of
from launcher.watch.history import History, describe_node_check, duration, history_of, span, summary
from launcher.watch.progress_state import clock
from launcher.watch.status import RunStatus, status_of
from launcher.watch.status_table import detail


def overview(subject: Subject) -> Sequence[Block]:
    """Return phase, job, size and progress of the run; queries Slurm."""
    (status,), answer = status_of([subject.run], subject.shell)
    values = status.to_dict()
    last = values["last_sign"]
    blocks: list[Block] = [
        facts(
            ("State", status.phase.value),
            ("Detail", detail(status, subject.now)),
            ("Job", " ".join(each for each in (status.job, status.job_state) if each)),
            ("Recipe", values["recipe"]),
            ("Cluster", values["cluster"]),
            ("Ranks", values["world_size"] or None),
            ("Attempts", _attempts(status)),
            ("Iteration", _iteration(values["iteration"], values["train_iters"])),
            ("Loss", text_of(values["loss"], ".6g")),
            ("Seconds per iteration", text_of(values["seconds_per_iteration"], ".4g")),
            ("TFLOP/s per GPU", _tflops(values["tflops_per_gpu"])),
            ("Tokens per second", text_of(values["tokens_per_second"], ",.0f")),
            ("Time left", None if values["seconds_left"] is None else clock(values["seconds_left"])),
            ("Last sign of life", None if last is None or status.phase.over else format_time(last)),
            ("Run directory", values["run_dir"]),
        )
    ]
    blocks += _history(history_of(status))
    if answer.unreachable:
        blocks.append(Text(f"Slurm did not answer: {answer.unreachable}", "warning"))
    return blocks


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
    return f"{value:.1f}" if value is not None and value >= 0.05 else None


def format_time(seconds: float) -> str:
    """Format a point in time (seconds since the epoch) in the time zone of this machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))
