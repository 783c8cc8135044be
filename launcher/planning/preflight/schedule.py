"""Rules about iterations, learning rate, evaluation and saving: values that never take effect.

Source: core/optimizer_param_scheduler.py of megatron-core 0.19.2 and training/config.py of Bridge for the scheduler,
training/train.py of Bridge 0.6.2 for evaluation and saving.
"""

from collections.abc import Iterator

from launcher.planning.preflight.findings import ConfigView, Finding, refused

_LONG = 1000
"""Number of iterations from which a run without a checkpoint is reported."""


def learning_rate(view: ConfigView) -> Iterator[Finding]:
    """Check warm-up and decay against the length of the run, and the minimum rate against the maximum."""
    iterations, warmup = view.number("train.train_iters"), view.number("scheduler.lr_warmup_iters")
    decay = view.number("scheduler.lr_decay_iters")
    if warmup and iterations and warmup >= iterations and (decay is None or decay > warmup):
        yield Finding(
            f"scheduler.lr_warmup_iters={warmup} is not less than train.train_iters={iterations}: the learning rate "
            "never reaches its maximum",
            f"set for example scheduler.lr_warmup_iters={max(1, iterations // 10)}",
        )
    elif warmup and decay and warmup >= decay and not view.complete:
        # In a checked configuration, Bridge itself has warned.
        yield Finding(
            f"scheduler.lr_warmup_iters={warmup} is not less than scheduler.lr_decay_iters={decay}: Megatron Bridge "
            f"changes it to {max(0, decay - 1)}",
            f"set for example scheduler.lr_warmup_iters={max(1, decay // 10)}",
        )
    if decay and iterations and decay < iterations:
        yield Finding(
            f"scheduler.lr_decay_iters={decay} is less than train.train_iters={iterations}: the last "
            f"{iterations - decay} iterations run with the minimum learning rate",
            f"set scheduler.lr_decay_iters={iterations}",
        )
    highest, least = (view.values.get(f"optimizer.{name}") for name in ("lr", "min_lr"))
    if isinstance(highest, (int, float)) and isinstance(least, (int, float)) and least > highest:
        yield refused(
            f"optimizer.min_lr={least:g} is more than optimizer.lr={highest:g}",
            "the scheduler decays from lr to min_lr",
        )


def evaluation(view: ConfigView) -> Iterator[Finding]:
    """Warn of an evaluation that never happens, or has no interval."""
    iterations, interval = view.number("train.train_iters"), view.number("validation.eval_interval")
    rounds = view.number("validation.eval_iters")
    if rounds and iterations and interval and interval > iterations:
        yield Finding(
            f"validation.eval_interval={interval} is more than train.train_iters={iterations}: nothing is evaluated "
            "during training",
            f"set validation.eval_interval={max(1, iterations // 2)}, or validation.eval_iters=0",
        )
    if rounds and view.values.get("validation.eval_interval", 1) == 0:
        yield Finding(
            f"validation.eval_iters={rounds} with validation.eval_interval=0: nothing is evaluated during training",
            "set an interval, or validation.eval_iters=0",
        )


def saving(view: ConfigView) -> Iterator[Finding]:
    """Warn of checkpoints that are written only at the end, or never."""
    iterations, interval = view.number("train.train_iters"), view.values.get("checkpoint.save_interval", -1)
    if "checkpoint.save" in view.overridden and view.values.get("checkpoint.save", "") is None:
        if iterations and iterations >= _LONG:
            yield Finding(
                f"checkpoint.save=null saves nothing of {iterations} iterations",
                "without a checkpoint, a run that stops loses everything",
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
    """Warn of a run without iterations."""
    if view.values.get("train.train_iters", 1) == 0:
        yield Finding("train.train_iters=0 trains nothing", "the run only starts and ends")


RULES = (length, learning_rate, evaluation, saving)
"""In the order of their findings."""
