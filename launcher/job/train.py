"""The steps of one rank, from argv.json to the record of its end."""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Optional

from ..contract.overrides import keys_of
from ..contract.records.checkpoints import CheckpointChoice
from ..contract.records.request import JobOptions, JobRequest
from ..contract.records.result import STOP_CAUSES, SUPERSEDED
from ..contract.validation import ContractError, conforming
from . import backend, environment, record, sources
from .config import notes, paths
from .errors import UserError
from .mlm import training as mlm
from .rank import Rank
from .watch.events import Events, Timeline
from .watch.fence import SupersededError
from .watch.heartbeat import Heartbeat, join

_SUMS_LIMIT_S = {"finished": 45.0, "stopped": 10.0, "failed": 0.0}
"""How long the end of a rank waits for the sums of its last checkpoint: less than srun waits for the last task (60 s),
and less than a time limit or a preemption leaves."""

ABORT_LIMIT_S = 20.0
"""How long a rank that has failed, and has recorded that, may take to leave its process groups."""


class Interrupted(BaseException):
    """Signal to end before training; a BaseException, so that no library handles it as its own error."""


@dataclass
class RankState:
    """State of the rank's work; `end` can be determined at any point."""

    rank: Rank
    started: float = field(default_factory=time.time)
    events: Optional[Events] = None
    heartbeat: Heartbeat = field(default_factory=join)
    config: Optional[Any] = None
    window: Optional[Any] = None
    """What this rank captures (profiling.window.Window); None if nothing, and then profiling is not imported."""
    network: Optional[Any] = None
    """This rank's part in watching the network (network.watch.Watch); None as above."""
    end: Optional[record.End] = None
    """How this rank has ended, once that is recorded."""

    @property
    def iteration(self) -> Optional[int]:
        """Return the last completed iteration; None before the training loop."""
        return None if self.events is None else self.events.progress.iteration


def run(rank: Rank) -> int:
    """Train, write the record of the rank's end in any case, and return its exit status."""
    state = RankState(rank)
    timeline = Timeline(rank)
    try:
        with signals_raise():
            request = read_request(rank)
            if rank.rank == 0:
                sources.refuse_changed_code(rank.run_paths)
            bind_numa(rank, request["options"])
            state.network = start_network_watch(rank, request["options"])
            state.config, device = configure(rank, request, timeline, state.started)
            state.window = make_profiler_window(state, request["options"], device)
            if state.network is not None:
                state.network.begin(device)
        state.heartbeat.enter("setting up")
        train(state, request, device, timeline)
        end = record.End("finished", iteration=state.iteration)
    except BaseException as error:  # in any case the process ends here
        end = _judge(state, error)
    end = _record_end(state, end, timeline) if state.end is None else state.end
    _leave_group(end)
    if state.window is not None and state.window.ends_at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.exit_status)
    return end.exit_status


def _record_end(state: RankState, end: record.End, timeline: Timeline) -> record.End:
    """Write the record of the rank's end and what was held back until then; return the end as it was recorded."""
    state.heartbeat.enter("ending")
    if state.network is not None:
        end = state.network.explain(end)
    if state.events is not None:
        with contextlib.suppress(Exception):  # the end of this rank has to be recorded, whatever else fails
            state.events.flush(wait=end.outcome != "failed")
            if not _is_superseded(end):  # the checkpoints are another attempt's now
                state.events.finish_sums(_SUMS_LIMIT_S[end.outcome])
    if state.window is not None:
        state.window.finish(end.outcome != "failed")
    record.write_end(state.rank, end)
    state.end = end
    now = time.time()
    timeline.event("end", now - state.started, outcome=end.outcome, reason=end.reason, iteration=end.iteration)
    _print_outcome(state.rank, end)
    return end


def read_request(rank: Rank) -> JobRequest:
    """Return argv.json of the run: recipe, arguments, overrides and options. Raises UserError."""
    path = rank.run_paths.argv_file
    try:
        return conforming(json.loads(path.read_text(encoding="utf-8")), JobRequest, unknown_keys=True)
    except ContractError as error:
        raise UserError(f"argv.json is not a request of version 1: it {error}", where=str(path)) from error
    except (OSError, ValueError) as error:
        raise UserError(f"argv.json cannot be read: {error}", where=str(path)) from error


def configure(rank: Rank, request: JobRequest, timeline: Timeline, started: float) -> tuple[Any, str]:
    """Return the configuration to train with, and the device; may restart this process once (environment.py).

    For a script of Megatron-LM it is its command line (mlm/training.py).
    """
    if "mlm" in request["recipe"]:
        return mlm.prepare(rank, request, timeline, started)
    sources.use_core(request["options"])
    sources.require_stack()
    from . import fetch
    from .config import check, overrides, recipe, versions
    from .model import extensions, weights
    from .model.shared_sums import SharedSums

    fetch.begin()
    options, wanted = request["options"], overrides.read(request["overrides"])
    keys = keys_of(wanted)
    sums = SharedSums(rank, options["verify"])
    if paths.loads(rank, bool(options.get("load", False))):
        sums.begin(paths.likely_checkpoints(rank, {one.key: one.value for one in wanted}))
    device = _enable_device(options)
    config = fetch.make_configuration(
        lambda: recipe.load(request["recipe"], request["arguments"], rank.run_paths.code), request, rank
    )
    config = overrides.apply(config, wanted)
    # The override env_vars.NAME= is also the user's, and wins over --env.
    user_env = [name for name in options.get("user_env", ()) if not paths.is_overridden(f"env_vars.{name}", keys)]
    environment.apply(environment.wanted(versions.env_vars(config), user_env, os.environ), device)
    timeline.event("imports", time.time() - started, device=device)
    environment.keep_secrets_out_of_files(config, os.environ)
    if rank.rank == 0:
        environment.write_environment(rank.paths.environment, os.environ, rank.run_paths.plan_file)
    if device == "cpu":
        from . import cpu

        config = cpu.prepare(config)
    paths.place_files(config, rank, keys)
    paths.stop_on_signal(config, keys)
    began = time.monotonic()
    choice = paths.choose_checkpoint(config, rank, keys, bool(options.get("load", False)), options["verify"], sums)
    sums.end()
    if choice is not None and choice["iteration"] is not None:
        _report_choice(choice, rank, timeline, time.monotonic() - began)
    fetch.fetch_all(config, rank, options.get("init"))
    weights.choose(config, options.get("init"), check_files=rank.rank == 0)
    if device != "cpu":
        extensions.require(config)
    checked = check.validate(config, rank.world_size, wanted)
    found = notes.take()
    if rank.rank == 0:
        for text in (*(f"note: {one}" for one in found), *(f"warning: {one}" for one in checked.warnings)):
            print(text, file=sys.stderr, flush=True)
    return config, device


def _enable_device(options: JobOptions) -> str:
    """Return the device, with Megatron made importable for it."""
    device = backend.select(options.get("device", "auto"))
    if device == "cpu":
        from . import cpu

        cpu.enable()
    if "mcore" in options:
        sources.lend_helpers()
    return device


def _report_choice(choice: CheckpointChoice, rank: Rank, timeline: Timeline, seconds: float) -> None:
    from ..contract import manifest

    verification = choice["verification"]
    timeline.event(
        "checkpoint_verified",
        seconds,
        iteration=choice["iteration"],
        verification=verification,
        passed_over=choice["passed_over"],
    )
    if rank.rank == 0:
        for one in choice["passed_over"]:
            what = "set aside" if one["set_aside"] else "passed over"
            print(f"warning: checkpoint {one['iteration']} is {what}: {one['file']} {one['reason']}", file=sys.stderr)
        how = manifest.describe(verification) if verification else "not verified"
        print(f"loading checkpoint {choice['iteration']}: {how}", flush=True)


def bind_numa(rank: Rank, options: JobOptions) -> None:
    """Bind this process next to its GPU; threads and memory of libraries that are loaded later follow."""
    if options.get("numa_binding"):
        from . import numa

        numa.bind(rank, options)


def start_network_watch(rank: Rank, options: JobOptions) -> Optional[Any]:
    """Return this rank's part in watching the network, or None; NCCL's variables are set before NCCL loads."""
    if not options["network"]:
        return None
    from .network.watch import prepare  # imported only by runs that expect something of their network

    return prepare(rank, options["network"])


def make_profiler_window(state: RankState, options: JobOptions, device: str) -> Optional[Any]:
    """Return what this rank captures, if anything. Raises UserError where that cannot work."""
    if not options["profiler"] or isinstance(state.config, mlm.CommandLine):
        return None
    from .profiling.prepare import prepare  # imported only by runs with a profiler

    return prepare(state.config, state.rank, options["profiler"], device)


def train(state: RankState, request: JobRequest, device: str, timeline: Timeline) -> None:
    """Run Bridge's pretrain(), or finetune() from given weights, with the launcher's callbacks; or Megatron-LM."""
    if state.rank.rank == 0:
        record.write_megatron(state.rank)
    if request["options"].get("probe"):
        from . import probe  # imported only by runs that are compared from the inside

        probe.install(state.rank)
    if isinstance(state.config, mlm.CommandLine):
        state.events = Events(state.rank, device, timeline, state.heartbeat)
        mlm.train(state.config, request, state.events)
        return
    from megatron.bridge.training import pretrain as bridge

    from . import trackers
    from .config import versions
    from .model import forward, loading
    from .model.weights import require_all_tensors

    versions.require_callbacks(bridge.pretrain)
    forward_step = forward.choose(state.config, request)
    if state.rank.rank == 0:
        print(*(f"note: {text}" for text in notes.take()), sep="\n", file=sys.stderr, flush=True)
    trackers.prepare(state.config, state.rank)
    state.events = Events(state.rank, device, timeline, state.heartbeat)
    logging.getLogger(bridge.__name__).addFilter(_is_not_clean_stop)
    versions.before_failure_cleanup(lambda error: _record_failure(state, error, timeline))
    callbacks = state.events.manager(state.config)
    if state.window is not None:
        state.window.attach(callbacks)
    config: Any = state.config
    weights = config.checkpoint.pretrained_checkpoint
    with loading.watched(config, state.rank, device):
        if weights is None:
            bridge.pretrain(config, forward_step, callbacks=callbacks)
        else:
            # The same loop, but it refuses to start where the weights are not found.
            from megatron.bridge.training.finetune import finetune

            with require_all_tensors(weights):
                finetune(config, forward_step, callbacks=callbacks)


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Raise Interrupted on SIGTERM inside the block, so that a rank stopped before training reports that.

    Only there: later Bridge has its own handler, and while process groups are created the default (end at once) is
    better than an exception that waits for the end of a collective.
    """

    def interrupt(number: int, _frame: Optional[FrameType]) -> None:
        raise Interrupted(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _judge(state: RankState, error: BaseException) -> record.End:
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        name = "SIGINT" if isinstance(error, KeyboardInterrupt) else str(error)
        return record.End("stopped", f"signal {name}", state.iteration)
    if isinstance(error, SupersededError):
        return record.End("stopped", str(error), state.iteration)
    in_loop = state.events is not None and state.events.progress.state is not None
    if isinstance(error, SystemExit) and error.code in (0, None) and in_loop:
        return record.End("stopped", _stop_reason(state), state.iteration)
    return record.failure(error, state.rank.run_paths.code, state.iteration)


def _record_failure(state: RankState, error: BaseException, timeline: Timeline) -> None:
    """Record the failure that Bridge is about to clean up after: it may not come back from that."""
    end = _judge(state, error)
    if end.outcome == "failed":
        _leave_in_time(_record_end(state, end, timeline))


def _leave_in_time(end: record.End) -> None:
    """End this process after ABORT_LIMIT_S at the latest.

    NCCL's abort of a process group may wait for ever (seen with two H100 after NaN in a gradient), and the peers wait
    for this rank's exit.
    """

    def leave() -> None:
        time.sleep(ABORT_LIMIT_S)
        print(f"warning: the process groups were not aborted within {ABORT_LIMIT_S:g} s", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(end.exit_status)

    threading.Thread(target=leave, name="leave in time", daemon=True).start()


def _stop_reason(state: RankState) -> str:
    """Return why Bridge's loop ended early, in Bridge's order: signal, duration, interval, stragglers."""
    assert state.events is not None and state.config is not None  # noqa: S101 - only called inside the loop
    progress, options = state.events.progress, state.config.train
    if progress.signalled:
        asked = _stop_request(state.rank)
        return asked or f"signal {signal.Signals(options.exit_signal).name}"
    minutes = (progress.last_step_time - progress.state.start_time) / 60 if progress.state is not None else 0.0
    if options.exit_duration_in_mins and minutes > options.exit_duration_in_mins:
        return "exit_duration"
    if options.exit_interval and (progress.iteration or 0) % options.exit_interval == 0:
        return "exit_interval"
    # Bridge checks the duration a moment after the time that was recorded here.
    return "exit_duration" if options.exit_duration_in_mins else "straggler detection"


def _stop_request(rank: Rank) -> Optional[str]:
    """Return why the file `stop` asks to stop: what sbatch.sh has learnt, else `requested`; None without the file."""
    try:
        text = rank.paths.stop.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return text if text in STOP_CAUSES else "requested"


def _is_not_clean_stop(entry: logging.LogRecord) -> bool:
    """Return False for Bridge 0.6.2's ERROR about a requested stop ("Pretrain failed ... SystemExit: 0")."""
    error = entry.exc_info[1] if entry.exc_info else None
    return not (isinstance(error, SystemExit) and error.code in (0, None))


def _print_outcome(rank: Rank, end: record.End) -> None:
    if end.exception is not None:
        kind = "" if end.cause in ("user", "outside", "network") else f"{end.exception['type']}: "
        where = f" ({end.exception['where']})" if end.exception["where"] else ""
        if end.cause not in ("user", "outside"):
            print(end.exception["traceback"], file=sys.stderr)
        print(f"error: rank {rank.rank}: {kind}{end.exception['message']}{where}", file=sys.stderr, flush=True)
    elif rank.rank == 0:
        reason = f" ({end.reason})" if end.reason else ""
        print(f"run {end.outcome}{reason} at iteration {end.iteration}", flush=True)


def _is_superseded(end: record.End) -> bool:
    """Return whether a rank ended because another attempt owns the run."""
    return end.outcome == "stopped" and str(end.reason).startswith(SUPERSEDED)


def _leave_group(end: record.End) -> None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    if end.outcome == "failed" or _is_superseded(end):
        # Peers may wait in a collective that this rank never joins; an orderly end would wait with them.
        _leave_in_time(end)
        torch.distributed.distributed_c10d._abort_process_group()
    else:
        torch.distributed.destroy_process_group()
