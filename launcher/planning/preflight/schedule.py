"""Iterations, learning rate, evaluation and saving: does what is asked for ever happen?

The scheduler's rules are those of core/optimizer_param_scheduler.py of megatron-core 0.19.2 and of Bridge's
training/config.py; when it evaluates and saves, those of training/train.py of Bridge 0.6.2.
"""

from collections.abc import Iterator

from launcher.planning.preflight.findings import ConfigView, Finding, refused

_LONG = 1000
"""Iterations from which a run without a checkpoint is worth a word."""


def learning_rate(view: ConfigView) -> Iterator[Finding]:
    """Warm-up and decay against the length of the run, and the least rate against the highest."""
    iterations, warmup = view.number("train.train_iters"), view.number("scheduler.lr_warmup_iters")
    decay = view.number("scheduler.lr_decay_iters")
    if warmup and iterations and warmup >= iterations and (decay is None or decay > warmup):
        yield Finding(
            f"scheduler.lr_warmup_iters={warmup} is not less than train.train_iters={iterations}: the learning rate "
            "never reaches its value",
            f"such as scheduler.lr_warmup_iters={max(1, iterations // 10)}",
        )
    elif warmup and decay and warmup >= decay and not view.complete:
        # The check of the configuration has Bridge's own warning.
        yield Finding(
            f"scheduler.lr_warmup_iters={warmup} is not less than scheduler.lr_decay_iters={decay}: Megatron Bridge "
            f"makes it {max(0, decay - 1)}",
            f"such as scheduler.lr_warmup_iters={max(1, decay // 10)}",
        )
    if decay and iterations and decay < iterations:
        yield Finding(
            f"scheduler.lr_decay_iters={decay} is less than train.train_iters={iterations}: the last "
            f"{iterations - decay} iterations run with the least learning rate",
            f"set scheduler.lr_decay_iters={iterations}",
        )
    highest, least = (view.values.get(f"optimizer.{name}") for name in ("lr", "min_lr"))
    if isinstance(highest, (int, float)) and isinstance(least, (int, float)) and least > highest:
        yield refused(
            f"optimizer.min_lr={least:g} is more than optimizer.lr={highest:g}",
            "a scheduler goes down from lr to min_lr",
        )


def evaluation(view: ConfigView) -> Iterator[Finding]:
    """An evaluation that never comes, or has no interval."""
    iterations, interval = view.number("train.train_iters"), view.number("validation.eval_interval")
    rounds = view.number("validation.eval_iters")
    if rounds and iterations and interval and interval > iterations:
        yield Finding(
            f"validation.eval_interval={interval} is more than train.train_iters={iterations}: nothing is evaluated "
            "on the way",
            f"set validation.eval_interval={max(1, iterations // 2)}, or validation.eval_iters=0",
        )
    if rounds and view.values.get("validation.eval_interval", 1) == 0:
        yield Finding(
            f"validation.eval_iters={rounds} with validation.eval_interval=0: nothing is evaluated on the way",
            "set an interval, or validation.eval_iters=0",
        )


def saving(view: ConfigView) -> Iterator[Finding]:
    """Checkpoints that are written only at the end, or never."""
    iterations, interval = view.number("train.train_iters"), view.values.get("checkpoint.save_interval", -1)
    if "checkpoint.save" in view.overridden and view.values.get("checkpoint.save", "") is None:
        if iterations and iterations >= _LONG:
            yield Finding(
                f"checkpoint.save=null saves nothing of {iterations} iterations",
                "without a checkpoint a stop loses all",
            )
        return
    if interval == 0:
        yield Finding(
            "checkpoint.save_interval=0 saves nothing, not even at the end",
            "a run that stops cannot be resumed; checkpoint.save_interval=null saves at the end",
        )
    elif type(interval) is int and iterations and interval > iterations:
        yield Finding(
            f"checkpoint.save_interval={interval} is more than train.train_iters={iterations}: the only checkpoint is "
            "the last",
            f"set checkpoint.save_interval={max(1, iterations // 2)} if the run may be cut short",
        )


def length(view: ConfigView) -> Iterator[Finding]:
    """A run of no iterations."""
    if view.values.get("train.train_iters", 1) == 0:
        yield Finding("train.train_iters=0 trains nothing", "only the start and the end of a run happen")


RULES = (length, learning_rate, evaluation, saving)
"""In the order in which they are told."""
