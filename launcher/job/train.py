"""The sequence that one rank goes through, from argv.json to the record of its end."""

import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Optional

from ..contract.records import JobOptions, JobRequest
from ..contract.validation import ContractError, conforming
from . import backend, environment, record
from .config import notes, paths
from .errors import UserError
from .rank import Rank
from .watch.events import Events, Timeline


class Interrupted(BaseException):
    """A signal to end came before training; BaseException, so that no library takes it for an error of its own."""


@dataclass
class Job:
    """What is known about the rank's work so far; `end` can be told at any point of it."""

    rank: Rank
    started: float = field(default_factory=time.time)
    events: Optional[Events] = None
    config: Optional[Any] = None
    window: Optional[Any] = None
    """What this rank captures with a profiler (profiling.window.Window); None: nothing, and nothing of it is loaded."""
    network: Optional[Any] = None
    """This rank's part in watching the network (network.watch.Watch); None: nothing, as above."""

    @property
    def iteration(self) -> Optional[int]:
        """The last completed iteration; None before the training loop."""
        return None if self.events is None else self.events.progress.iteration


def run(rank: Rank) -> int:
    """Train, write the rank's end whatever happens, and return its exit status."""
    job = Job(rank)
    timeline = Timeline(rank)
    try:
        with signals_raise():
            request = read_request(rank)
            place(rank, request["options"])
            job.network = watched(rank, request["options"])
            job.config, device = configure(rank, request, timeline, job.started)
            job.window = profiled(job, request["options"], device)
            if job.network is not None:
                job.network.begin(device)
        train(job, request, device, timeline)
        end = record.End("finished", iteration=job.iteration)
    except BaseException as error:  # whatever it is, the process ends here
        end = _judge(job, error)
    if job.network is not None:
        end = job.network.explain(end)
    if job.events is not None:
        with contextlib.suppress(Exception):
            job.events.flush(wait=end.outcome != "failed")
    if job.window is not None:
        job.window.finish(end.outcome != "failed")
    record.write_end(rank, end)
    timeline.event("end", time.time() - job.started, outcome=end.outcome, reason=end.reason, iteration=end.iteration)
    _tell(rank, end)
    _leave_group(end)
    if job.window is not None and job.window.ends_at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.exit_status)
    return end.exit_status


def read_request(rank: Rank) -> JobRequest:
    """Return the content of the run's argv.json. Raises UserError."""
    path = rank.run_paths.argv_file
    try:
        return conforming(json.loads(path.read_text(encoding="utf-8")), JobRequest, unknown_keys=True)
    except ContractError as error:
        raise UserError(f"argv.json is not a request of version 1: it {error}", where=str(path)) from error
    except (OSError, ValueError) as error:
        raise UserError(f"argv.json cannot be read: {error}", where=str(path)) from error


def configure(rank: Rank, request: JobRequest, timeline: Timeline, started: float) -> tuple[Any, str]:
    """The configuration to train with, and the device; may start this process anew, once (see environment.py)."""
    from . import fetch
    from .config import check, overrides, recipe, versions
    from .model import extensions, weights

    fetch.begin()
    settings, keys = request["options"], paths.overridden(request["overrides"])
    device = backend.select(settings.get("device", "auto"))
    if device == "cpu":
        from . import cpu

        cpu.enable()
    config = fetch.make_configuration(
        lambda: recipe.load(request["recipe"], request["arguments"], rank.run_paths.code), request, rank
    )
    config = overrides.apply(config, request["overrides"])
    # The override env_vars.NAME= is the user's as well, and stronger than --env.
    user_env = [name for name in settings.get("user_env", ()) if not paths.is_overridden(f"env_vars.{name}", keys)]
    environment.apply(environment.wanted(versions.env_vars(config), user_env, os.environ), device)
    timeline.event("imports", time.time() - started, device=device)
    if rank.rank == 0:
        environment.write_environment(rank.paths.environment, os.environ)
    if device == "cpu":
        config = cpu.prepare(config)
    paths.place_files(config, rank, keys)
    paths.stop_on_signal(config, keys)
    paths.choose_checkpoint(config, rank, keys, bool(settings.get("load", False)))
    fetch.fetch_all(config, rank, settings.get("init"))
    weights.choose(config, settings.get("init"), look=rank.rank == 0)
    if device != "cpu":
        extensions.require(config)
    checked = check.validate(config, rank.world_size, request["overrides"])
    told = notes.take()
    if rank.rank == 0:
        for text in (*(f"note: {one}" for one in told), *(f"warning: {one}" for one in checked.warnings)):
            print(text, file=sys.stderr, flush=True)
    return config, device


def place(rank: Rank, settings: JobOptions) -> None:
    """Run next to the GPU: threads and memory of the libraries that are loaded later follow."""
    if settings.get("numa_binding"):
        from . import numa

        numa.bind(rank, settings)


def watched(rank: Rank, settings: JobOptions) -> Optional[Any]:
    """This rank's part in watching the network, with NCCL's variables set before it is loaded; None for no part."""
    if not settings["network"]:
        return None
    from .network.watch import prepare  # a run that expects nothing of its network does not load it

    return prepare(rank, settings["network"])


def profiled(job: Job, settings: JobOptions, device: str) -> Optional[Any]:
    """What this rank is to capture, if anything. Raises UserError where that cannot work."""
    if not settings["profiler"]:
        return None
    from .profiling.prepare import prepare  # a run without a profiler does not load it

    return prepare(job.config, job.rank, settings["profiler"], device)


def train(job: Job, request: JobRequest, device: str, timeline: Timeline) -> None:
    """Bridge's own pretrain(), or finetune() where weights are given to start from, with this launcher's callbacks."""
    from megatron.bridge.training import pretrain as bridge

    from .config import versions
    from .model import forward
    from .model.weights import require_all_tensors

    versions.require_callbacks(bridge.pretrain)
    forward_step = forward.choose(job.config, request)
    if job.rank.rank == 0:
        print(*(f"note: {text}" for text in notes.take()), sep="\n", file=sys.stderr, flush=True)
    job.events = Events(job.rank, device, timeline)
    logging.getLogger(bridge.__name__).addFilter(_not_a_clean_stop)
    callbacks = job.events.manager(job.config)
    if job.window is not None:
        job.window.attach(callbacks)
    config: Any = job.config
    weights = config.checkpoint.pretrained_checkpoint
    if weights is None:
        bridge.pretrain(config, forward_step, callbacks=callbacks)
    else:
        # The same loop, which refuses to begin where the weights are not found.
        from megatron.bridge.training.finetune import finetune

        with require_all_tensors(weights):
            finetune(config, forward_step, callbacks=callbacks)


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Inside the block SIGTERM raises Interrupted, so that a rank which is stopped before training says so.

    Only there: later Bridge has a handler of its own, and while process groups are made the default (to die at once) is
    better than an exception that waits for a collective to end.
    """

    def interrupt(number: int, _frame: Optional[FrameType]) -> None:
        raise Interrupted(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _judge(job: Job, error: BaseException) -> record.End:
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        name = "SIGINT" if isinstance(error, KeyboardInterrupt) else str(error)
        return record.End("stopped", f"signal {name}", job.iteration)
    in_loop = job.events is not None and job.events.progress.state is not None
    if isinstance(error, SystemExit) and error.code in (0, None) and in_loop:
        return record.End("stopped", _stop_reason(job), job.iteration)
    return record.failure(error, job.rank.run_paths.code, job.iteration)


def _stop_reason(job: Job) -> str:
    """Why Bridge's loop left early, in the order in which it asks: signal, duration, interval, stragglers."""
    assert job.events is not None and job.config is not None  # noqa: S101 only called from inside the loop
    progress, options = job.events.progress, job.config.train
    if progress.signalled:
        requested = (job.rank.paths.stop).exists()
        return "requested" if requested else f"signal {signal.Signals(options.exit_signal).name}"
    minutes = (progress.last_step_time - progress.state.start_time) / 60 if progress.state is not None else 0.0
    if options.exit_duration_in_mins and minutes > options.exit_duration_in_mins:
        return "exit_duration"
    if options.exit_interval and (progress.iteration or 0) % options.exit_interval == 0:
        return "exit_interval"
    # The duration is looked at a moment after the time that was noted here.
    return "exit_duration" if options.exit_duration_in_mins else "straggler detection"


def _not_a_clean_stop(entry: logging.LogRecord) -> bool:
    """False for "Pretrain failed ... SystemExit: 0", Bridge 0.6.2's ERROR about a stop that was asked for."""
    error = entry.exc_info[1] if entry.exc_info else None
    return not (isinstance(error, SystemExit) and error.code in (0, None))


def _tell(rank: Rank, end: record.End) -> None:
    if end.exception is not None:
        kind = "" if end.cause in ("user", "network") else f"{end.exception['type']}: "
        place = f" ({end.exception['where']})" if end.exception["where"] else ""
        if end.cause != "user":
            print(end.exception["traceback"], file=sys.stderr)
        print(f"error: rank {rank.rank}: {kind}{end.exception['message']}{place}", file=sys.stderr, flush=True)
    elif rank.rank == 0:
        reason = f" ({end.reason})" if end.reason else ""
        print(f"run {end.outcome}{reason} at iteration {end.iteration}", flush=True)


def _leave_group(end: record.End) -> None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    if end.outcome == "failed":
        # Peers may wait in a collective that this rank never joins: an orderly end would wait with them.
        torch.distributed.distributed_c10d._abort_process_group()
    else:
        torch.distributed.destroy_process_group()
