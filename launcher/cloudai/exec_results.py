"""What came of a case in exec mode: judged by its job and by the iterations in its log.

The status of setup_experiment.py is not the verdict: it is 1 after a good training for which it knows no golden values,
and a job can end with status 0 after a few iterations.
"""

import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.cloudai.exec_mode import ExecCase
from launcher.cloudai.gates import outcomes, words_after
from launcher.contract.records.nodes import GateOutcome
from launcher.slurm.queue import Job, State

_ITERATION = re.compile(r"iteration\s+(\d+)\s*/\s*(\d+)\s*\|(.*)")
_STEP = re.compile(r"Step Time\s*:\s*([\d.]+)s\s+GPU utilization:\s*([\d.]+)")
_VALUE = r"\s*([-+0-9.eE]+|nan|-?inf)"
_LOSS = re.compile(rf"lm loss:{_VALUE}", re.IGNORECASE)
_NORM = re.compile(rf"grad norm:{_VALUE}", re.IGNORECASE)
_TIME = re.compile(r"elapsed time per iteration \(ms\):\s*([\d.]+)")
_RATE = re.compile(r"throughput per GPU \(TFLOP/s/GPU\):\s*([\d.]+)")
_NAN = re.compile(r"number of nan iterations:\s*(\d+)")
_MEMORY = re.compile(r"mem-max-allocated-gigabytes:\s*([\d.]+)")

_SCRIPT_S = 300.0
"""How long after the end of its job the script is waited for: it then compares and writes golden values."""


@dataclass(frozen=True)
class LoggedStep:
    """An iteration in a log of Megatron Bridge."""

    iteration: int
    total: int
    """How many there are to be."""
    seconds: float
    loss: float | None
    grad_norm: float | None
    tflops_per_gpu: float | None
    memory_bytes: float | None
    nan_iterations: int


@dataclass(frozen=True)
class ExecVerdict:
    """What came of the newest job of a case."""

    phase: str
    detail: str
    over: bool
    good: bool


def read_steps(lines: Iterable[str]) -> list[LoggedStep]:
    """Return the iterations of a log in their order; of one that is there twice, the later.

    The line with the utilization stands before that of its iteration.
    """
    found: dict[int, LoggedStep] = {}
    rate: float | None = None
    for line in lines:
        if (step := _STEP.search(line)) is not None:
            rate = float(step[2])
        if (match := _ITERATION.search(line)) is None:
            continue
        rest = match[3]
        milliseconds, memory = _number(_TIME, rest), _number(_MEMORY, line)
        if milliseconds is None:
            continue
        nan = _NAN.search(rest)
        found[int(match[1])] = LoggedStep(
            iteration=int(match[1]),
            total=int(match[2]),
            seconds=milliseconds / 1000,
            loss=_number(_LOSS, rest),
            grad_norm=_number(_NORM, rest),
            tflops_per_gpu=rate if rate is not None else _number(_RATE, rest),
            memory_bytes=None if memory is None else memory * 1e9,
            nan_iterations=int(nan[1]) if nan else 0,
        )
        rate = None
    return [found[iteration] for iteration in sorted(found)]


def _number(pattern: "re.Pattern[str]", text: str) -> float | None:
    match = pattern.search(text)
    try:
        return float(match[1]) if match is not None else None
    except ValueError:
        return None  # words where a number is expected count as no measurement


def steps_of(case: ExecCase) -> list[LoggedStep]:
    """Return the iterations of a case's newest job: from its own log, else from the output of the script."""
    path = log_of(case) or case.log
    try:
        with path.open(errors="replace") as file:
            return read_steps(file)
    except OSError:
        return []


def log_of(case: ExecCase) -> Path | None:
    """Return the log of a case's newest job, as NeMo-Run names it: log-ACCOUNT_JOB_RESTART.out or alike."""
    known = case.submission()
    if known is None:
        return None
    whole = re.compile(rf"(?<!\d){re.escape(known.job)}(?!\d)")
    found = [path for path in case.directory.glob("experiments/**/log*.out") if whole.search(path.name)]
    found.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))
    return found[-1] if found else None


def job_directory(case: ExecCase) -> Path | None:
    """Return the directory that the newest job has as /nemo_run; None where it is not there."""
    scripts = case.scripts()
    if not scripts:
        return None
    # EXPERIMENT/NAME_sbatch.sh, beside EXPERIMENT/NAME.
    script = Path(scripts[-1])
    named = script.with_name(script.name.removesuffix("_sbatch.sh"))
    log = log_of(case)
    return named if named.is_dir() else log.parent if log is not None else None


def golden_values(case: ExecCase) -> Path | None:
    """Return the file of measured values that setup_experiment.py has written; the newest of several."""
    found = sorted(case.directory.glob("experiments/**/golden_values/*.json"), key=lambda path: path.stat().st_mtime_ns)
    return found[-1] if found else None


def judge(case: ExecCase, job: Job | None, steps: Sequence[LoggedStep], now: float | None = None) -> ExecVerdict:
    """Return what came of a case whose newest job is `job`. Raises DiskError."""
    known = case.submission()
    if known is None:
        if case.runs():
            return ExecVerdict("starting", "setup_experiment.py has not submitted its job yet", over=False, good=False)
        words = (case.last_words().splitlines() or ["no output"])[-1]
        return ExecVerdict("failed", f"setup_experiment.py has ended without a job: {words}", over=True, good=False)
    if job is None or job.state is State.UNKNOWN:
        return ExecVerdict("unknown", "Slurm does not say how its job is", over=False, good=False)
    if job.state.waiting:
        return ExecVerdict("queued", job.reason or "", over=False, good=False)
    if not job.terminal:
        at = f"iteration {steps[-1].iteration} of {steps[-1].total}" if steps else ""
        return ExecVerdict("running", at, over=False, good=False)
    now = time.time() if now is None else now
    records = case.gate_records(known.job)
    hooks = outcomes(records[-1]) if records else []
    if case.runs() and (job.end is None or now - job.end < _SCRIPT_S):
        return ExecVerdict("stopping", "setup_experiment.py compares what was measured", over=False, good=False)
    found = _ended(job, steps, hooks)
    after = words_after(hooks)
    return replace(found, detail=f"{found.detail}; {after}") if after else found


def _ended(job: Job, steps: Sequence[LoggedStep], hooks: Sequence[GateOutcome]) -> ExecVerdict:
    for gate in hooks:
        if gate["when"] == "before" and not gate["passed"] and job.state is not State.CANCELLED:
            return ExecVerdict("failed", f"gate {gate['name']}: {gate['reason']}", over=True, good=False)
    if job.state is State.CANCELLED:
        return ExecVerdict("cancelled", _done(steps), over=True, good=False)
    wrong = _wrong(steps)
    if job.state not in (State.COMPLETED, State.FORGOTTEN):
        return ExecVerdict("failed", "; ".join([f"its job ended as {job.state}", *wrong]), over=True, good=False)
    if wrong:
        return ExecVerdict("failed", "; ".join(wrong), over=True, good=False)
    detail = _done(steps)
    if job.state is State.FORGOTTEN:
        detail += "; Slurm no longer knows its job"
    return ExecVerdict("finished", detail, over=True, good=True)


def _wrong(steps: Sequence[LoggedStep]) -> list[str]:
    """Return why a training is not a good one."""
    if not steps:
        return ["its log has no iteration"]
    found = list[str]()
    last = steps[-1]
    if last.iteration < last.total:
        found.append(_done(steps))
    missing = sum(step.loss is None for step in steps)
    odd = [
        step.iteration
        for step in steps
        if any(value is not None and not math.isfinite(value) for value in (step.loss, step.grad_norm))
    ]
    if odd or any(step.nan_iterations for step in steps):
        found.append(f"loss or gradient is not a number at iteration {odd[0]}" if odd else "it had iterations with NaN")
    elif missing == len(steps):
        found.append("its log has no loss")
    return found


def _done(steps: Sequence[LoggedStep]) -> str:
    return f"{steps[-1].iteration} of {steps[-1].total} iterations" if steps else "no iteration"
