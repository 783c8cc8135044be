"""Metrics and timeline of a training run while it runs, and the request to stop."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ...contract.files import JsonLines
from ...contract.hangs import Phase
from ...contract.records.environment import TrackersRecord
from .. import trackers
from ..config import versions
from ..rank import Rank
from ..signals import Termination
from .checkpoint_sums import CheckpointSums
from .fence import Fence
from .heartbeat import Heartbeat
from .metrics import Metrics
from .save_space import SaveSpace

_SETUP = ("model-and-optimizer-setup", "load-checkpoint")
"""Bridge's timers of what it makes before it opens data."""


class Timeline:
    """timeline.jsonl of an attempt, written by rank 0; on other ranks it writes nothing."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank.rank
        self._lines = JsonLines(rank.paths.timeline, parents=True) if rank.rank == 0 else None

    def event(self, name: str, seconds: Optional[float] = None, **more: Any) -> None:
        """Record that `name` has just happened, and how long it took."""
        if self._lines is not None:
            self._lines.append({"time": time.time(), "rank": self._rank, "event": name, "seconds": seconds, **more})


@dataclass
class LoopProgress:
    """What the sequence in train.py needs to know about the loop after it was left."""

    state: Optional[Any] = None
    signalled: bool = False
    last_step_time: float = 0.0
    requested: bool = False

    @property
    def iteration(self) -> Optional[int]:
        """The last completed iteration; None before the loop was reached."""
        return None if self.state is None else int(self.state.train_state.step)


class Events:
    """Bridge's callback: rank 0 writes the timeline, the last rank, which has the loss, the metrics.

    The last rank is in the last pipeline stage in every order of ranks that megatron-core 0.19 builds; Bridge itself
    logs on it.
    """

    def __init__(self, rank: Rank, device: str, timeline: Timeline, heartbeat: "Optional[Heartbeat]" = None) -> None:
        self.progress = LoopProgress()
        self._stop_file: Path = rank.paths.stop
        self._termination = Termination(rank.paths)
        self._bridges_handler: Any = None
        self._rank = rank
        self._timeline = timeline
        self._metrics = Metrics(rank, device) if rank.rank == rank.world_size - 1 else None
        self._heartbeat = heartbeat or Heartbeat()
        self._sums: Optional[CheckpointSums] = None
        self._created = time.monotonic()
        self._loop_start = 0.0
        self._step_start = 0.0
        self._step_end: Optional[float] = None
        self._evaluation_start = 0.0
        self._save_directory: Optional[str] = None
        self._first = True
        self._steps = 0
        self._trackers: Optional[TrackersRecord] = None
        self._in_loop = False
        self._after_step: Phase = "between steps"

    def manager(self, config: Any) -> Any:
        """Return a CallbackManager of Bridge with this object's methods registered."""
        from megatron.bridge.training.callbacks import CallbackManager

        directory = config.checkpoint.save
        self._save_directory = str(directory) if directory else None
        if directory:
            fence = Fence(self._rank)
            versions.before_saves(lambda _state: fence.before_save())
            versions.before_trackers(fence.before_tracker)
        if directory and "://" not in directory and self._rank.local_rank == 0:
            self._sums = CheckpointSums(self._rank, Path(directory), self._timeline)
            if self._rank.rank == 0:
                space = SaveSpace(self._rank, Path(directory), self._timeline, self._sums.last_bytes)
                versions.before_saves(lambda state: space.before_save(int(state.train_state.step)))
        manager = CallbackManager()
        for name in (
            "train_start",
            "train_step_start",
            "train_step_end",
            "train_end",
            "eval_start",
            "eval_end",
            "checkpoint_save",
        ):
            versions.listen(manager, f"on_{name}", getattr(self, name))
        if getattr(config.train, "num_epochs", None) is None:
            # With num_epochs Bridge 0.6.2 refuses a run that listens to this one.
            versions.listen(manager, "on_data_init_start", self.data_init_start)
        if not versions.around_saves(lambda: self._heartbeat.enter("saving"), self._resume_phase):
            self._after_step = "saving"
        return manager

    def _resume_phase(self) -> None:
        """Note what goes on after an evaluation or a save."""
        self._heartbeat.enter(self._after_step if self._in_loop else "ending")

    def data_init_start(self, context: Any) -> None:
        """Model, optimizer and checkpoint are there; no data file was opened yet."""
        total = time.monotonic() - self._created
        # Bridge times the parts but not this one: process groups, seeds, and the compilation of its helpers.
        parts = (_active(context.state.timers, name) for name in (*_SETUP, "tokenizer-setup"))
        self._timeline.event("process_groups", total - sum(seconds or 0.0 for seconds in parts))
        self._model_made(context)

    def _model_made(self, context: Any) -> None:
        self.progress.state = context.state
        model, load = (_active(context.state.timers, name) for name in _SETUP)
        self._timeline.event("model", model)
        if load:
            self._timeline.event("checkpoint_loaded", load, iteration=int(context.state.train_state.step))

    def train_start(self, context: Any) -> None:
        """Record that the training loop begins."""
        if self.progress.state is None:  # nothing was said of the data
            self._model_made(context)
        self._trackers = trackers.record(context.state, self._rank)
        self._watch_signals(context.state)
        if self._sums is not None:
            self._sums.begin(int(context.state.train_state.step))
        self._timeline.event("train_start", _active(context.state.timers, "train/valid/test-data-iterators-setup"))
        self._loop_start = time.monotonic()
        self._in_loop = True
        self._heartbeat.enter("first step")

    def train_step_start(self, context: Any) -> None:
        """Bridge has counted samples and operations of the iteration before by now."""
        if self._metrics is not None:
            self._metrics.settle(context.state, wait=False)
        if self._steps == 1:  # what is logged at all was logged once
            self._trackers = trackers.record(context.state, self._rank, self._trackers)
        self._heartbeat.enter("first step" if self._first else "training step")
        self._step_start = time.monotonic()

    def train_step_end(self, context: Any) -> None:
        """Measure an iteration that has ended on the host; on a GPU its last kernels may still run."""
        self._steps += 1
        self._heartbeat.step_done()
        self._heartbeat.enter(self._after_step)
        now = time.monotonic()
        since = self._step_start if self._step_end is None else self._step_end
        self._step_end = now
        self.progress.last_step_time = time.time()
        if self._first:
            self._first = False
            self._timeline.event(
                "first_step", now - self._loop_start, iteration=int(context.state.train_state.step) + 1
            )
        if self._metrics is not None:
            self._metrics.measure(context, now - since)
        self._look_for_stop(context.state)

    def train_end(self, context: Any) -> None:
        """Write what is held back: the loop has ended by itself."""
        trackers.record(context.state, self._rank, self._trackers)
        self._in_loop = False
        self._heartbeat.enter("ending")
        self.flush(wait=True)

    def flush(self, wait: bool) -> None:
        """Write what is still held back, also where the loop was left early. Without `wait` no GPU is waited for."""
        if self._metrics is not None and self.progress.state is not None:
            self._metrics.settle(self.progress.state, wait=wait)

    def eval_start(self, _context: Any) -> None:
        """Note when an evaluation begins."""
        self._heartbeat.enter("evaluating")
        self._evaluation_start = time.monotonic()

    def eval_end(self, context: Any) -> None:
        """Record an evaluation that has ended; its time does not count for an iteration."""
        losses = {name: float(value) for name, value in (context.total_loss_dict or {}).items() if _is_number(value)}
        iteration = int(context.state.train_state.step)
        self._timeline.event(
            "evaluation", time.monotonic() - self._evaluation_start, iteration=iteration, losses=losses
        )
        self._resume_phase()
        self._step_end = None

    def checkpoint_save(self, context: Any) -> None:
        """Record a checkpoint that was written, or handed to its writer; its time does not count for an iteration."""
        iteration = int(context.state.train_state.step)
        seconds = _running(context.state.timers, "save-checkpoint")
        self._timeline.event("save", seconds, iteration=iteration, directory=self._save_directory)
        if self._sums is not None:
            self._sums.look(iteration)
        self._step_end = None

    def finish_sums(self, limit_s: float) -> None:
        """Wait for the sums of the last checkpoint, at most `limit_s`."""
        if self._sums is not None:
            self._sums.finish(limit_s)

    def _watch_signals(self, state: Any) -> None:
        # Bridge leaves with exit status 0 whatever made it stop, and the ranks' answers about signals are all that
        # they share: what it hears is noted on the way.
        if not state.cfg.train.exit_signal_handler:
            return
        handler = state.signal_handler
        ask: Callable[[], list[bool]] = handler.signals_received

        def noted() -> list[bool]:
            received = ask()
            self.progress.signalled = self.progress.signalled or any(received)
            return received

        handler.signals_received = noted
        if state.cfg.train.exit_signal == signal.SIGTERM:
            self._bridges_handler = signal.getsignal(signal.SIGTERM)
            self._termination.install()

    def _look_for_stop(self, state: Any) -> None:
        if self._rank.rank != 0 or self.progress.requested:
            return
        if not self._stop_file.exists() and not self._termination.unanswered:
            return
        self.progress.requested = True
        if state.cfg.train.exit_signal_handler:
            self._timeline.event("stop_requested", iteration=int(state.train_state.step) + 1)
            # Bridge asks all ranks after this iteration whether one was signalled; then all save and leave together.
            number = state.cfg.train.exit_signal
            if callable(self._bridges_handler):
                self._bridges_handler(number, None)
            else:
                signal.raise_signal(number)
        else:
            self._timeline.event("stop_refused", reason="train.exit_signal_handler=false")


def _active(timers: Any, name: str) -> Optional[float]:
    """Seconds of one of Megatron's timers since the start of the process; None where it never ran."""
    timer = timers._timers.get(name)
    return float(timer.active_time()) if timer is not None and hasattr(timer, "_active_time") else None


def _running(timers: Any, name: str) -> Optional[float]:
    """Seconds that a timer shows now, and is left running; None where it does not run."""
    timer = timers._timers.get(name)
    started = getattr(timer, "_start_time", None) if getattr(timer, "_started", False) else None
    return time.time() - float(started) if started else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (hasattr(value, "numel") and value.numel() == 1)
