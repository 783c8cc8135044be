"""One rank's training by Megatron-LM: its command line, and the records that a training by Bridge leaves, too."""

import contextlib
import os
import runpy
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

from ...contract.records.request import JobRequest, MegatronScriptRequest
from .. import backend, environment, sources
from ..errors import UserError
from ..rank import Rank
from ..watch.events import Events, Timeline

OWN = "gpt"
"""The script that needs no checkout, gpt.py."""
_GRAD_NORM = 5
"""The place of the gradient norm in what train_step() returns, in Megatron-LM 0.12 to 0.19."""


@dataclass
class CommandLine:
    """What Megatron-LM is started with; once it has parsed that, `train` is its arguments."""

    words: list[str]
    train: Any = None


def prepare(rank: Rank, request: JobRequest, timeline: Timeline, started: float) -> tuple[CommandLine, str]:
    """Make megatron.training importable; return its command line and the device. Raises UserError."""
    script: MegatronScriptRequest = request["recipe"]  # type: ignore[assignment]
    device = backend.select(request["options"].get("device", "auto"))
    if script["source"] is not None:
        sources.put_first(Path(script["source"]))
    sources.use_core(request["options"])
    if device == "cpu":
        from .. import cpu

        cpu.enable()
    try:
        import megatron.training  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"Megatron-LM's megatron.training cannot be imported: {error}",
            hint="use an image with megatron-core 0.16 or newer, or a checkout: --mlm-source DIR",
        ) from error
    if device == "cpu":
        from . import cpu as own

        own.enable()
    sources.use_built_helpers()
    timeline.event("imports", time.time() - started, device=device)
    if rank.rank == 0:
        environment.write_environment(rank.paths.environment, os.environ, rank.run_paths.plan_file)
    words = _with_places(script["words"], rank)
    if device == "cpu":
        from .cpu import words_for_cpu

        words = words_for_cpu(words)
    return CommandLine(words), device


def _with_places(words: Sequence[str], rank: Rank) -> list[str]:
    """Return the words with directories in the run's own for what the user gave none."""
    given = {word.partition("=")[0] for word in words}
    found = list(words)
    if "--tensorboard-dir" not in given:
        found += ["--tensorboard-dir", str(rank.run_paths.tensorboard)]
    if given & {"--save-interval", "--persistent-save-interval"} and "--save" not in given:
        found += ["--save", str(rank.run_paths.checkpoints)]
        if "--load" not in given:
            found += ["--load", str(rank.run_paths.checkpoints)]
    return found


def train(config: CommandLine, request: JobRequest, events: Events) -> None:
    """Run the script in this process, with its training steps recorded."""
    script: MegatronScriptRequest = request["recipe"]  # type: ignore[assignment]
    loop = Loop(events, config)
    with _argv(script["mlm"], config.words), loop.watched():
        if script["mlm"] == OWN:
            from . import gpt

            gpt.main()
        else:
            assert script["source"] is not None  # noqa: S101 - a script is in a checkout
            runpy.run_path(str(Path(script["source"]) / script["mlm"]), run_name="__main__")


@contextlib.contextmanager
def _argv(name: str, words: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = [name, *words]
    try:
        yield
    except SystemExit as error:
        if error.code == 2:
            # argparse has said on standard error what is wrong.
            raise UserError("Megatron-LM does not take these arguments", where=" ".join(words)[:200]) from error
        raise
    finally:
        sys.argv = before


class Loop:
    """Megatron-LM's training loop as Bridge's callbacks see theirs: the same events, of the same form."""

    def __init__(self, events: Events, config: CommandLine) -> None:
        self._events = events
        self._config = config
        self._state: Optional[Any] = None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Record each training step and evaluation inside the block."""
        from megatron.training import training

        originals = {name: getattr(training, name) for name in ("train_step", "train", "evaluate_and_print_results")}

        def step(*arguments: Any, **keywords: Any) -> Any:
            return self._step(originals["train_step"], arguments, keywords)

        def whole(*arguments: Any, **keywords: Any) -> Any:
            self._begin()
            found = originals["train"](*arguments, **keywords)
            self._count(None)
            self._events.train_end(self._context())
            return found

        def evaluation(*arguments: Any, **keywords: Any) -> Any:
            if self._state is None:
                return originals["evaluate_and_print_results"](*arguments, **keywords)
            self._count(None)
            self._events.eval_start(self._context())
            found = originals["evaluate_and_print_results"](*arguments, **keywords)
            self._events.eval_end(self._context(total_loss_dict=None))
            return found

        training.train_step, training.train, training.evaluate_and_print_results = step, whole, evaluation
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(training, name, original)

    def _begin(self) -> None:
        from megatron.training import get_args, get_timers
        from megatron.training.global_vars import get_signal_handler

        args = get_args()
        self._config.train = args
        self._state = SimpleNamespace(
            cfg=SimpleNamespace(train=args, model=args),
            train_state=SimpleNamespace(
                step=int(args.iteration),
                consumed_train_samples=int(args.consumed_train_samples),
                floating_point_operations_so_far=0.0,
            ),
            timers=get_timers(),
            signal_handler=get_signal_handler() if args.exit_signal_handler else None,
            start_time=time.time(),
        )
        self._events.train_start(self._context())

    def _step(self, original: Any, arguments: Any, keywords: Any) -> Any:
        self._events.train_step_start(self._context())
        result = original(*arguments, **keywords)
        loss, skipped, optimizer = result[0], result[1], arguments[3]
        norm = result[_GRAD_NORM] if len(result) > _GRAD_NORM else None
        self._events.train_step_end(
            self._context(loss_dict=loss, skipped_iter=skipped, grad_norm=norm, optimizer=optimizer)
        )
        self._count(result)
        return result

    def _count(self, result: Optional[Any]) -> None:
        """Count an iteration, which Megatron-LM itself does after the step."""
        if result is None or self._state is None:
            return
        from megatron.core.num_microbatches_calculator import get_num_microbatches

        args, train = self._state.cfg.train, self._state.train_state
        batch = get_num_microbatches() * args.micro_batch_size * args.data_parallel_size
        train.step += 1
        train.consumed_train_samples += batch
        train.floating_point_operations_so_far += _flops(args, batch)

    def _context(self, **more: Any) -> Any:
        return SimpleNamespace(state=self._state, **more)


def _flops(args: Any, batch: int) -> float:
    from megatron.training.training import num_floating_point_operations

    try:
        return float(num_floating_point_operations(args, batch))
    except Exception:  # its arguments differ between releases
        return 0.0
