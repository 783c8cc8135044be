"""metrics.jsonl: one line for each iteration, with Bridge's own numbers, and without making a GPU wait for them.

On a GPU the losses of an iteration are copied to the host behind the kernels of that iteration, and read when they
have arrived: at the start of the next iteration, or at its end, by when Bridge itself has waited for them (it needs
the gradient norm on the host).
"""

import time
from dataclasses import dataclass
from typing import Any, Optional

from ...contract.files import JsonLines
from ..rank import Rank

# Name of the loss in the loss_dict of Bridge's gpt_step; its other entries are recorded under `losses`.
LOSS = "lm loss"


@dataclass
class EndedIteration:
    """An iteration that has ended on the host. `numbers` are floats, or a pinned tensor, complete once `ready` is."""

    iteration: int
    seconds: float
    time: float
    learning_rate: Optional[float]
    grad_norm: Optional[float]
    skipped: bool
    samples_before: int
    flops_before: float
    names: list[str]
    numbers: Any
    ready: Optional[Any]
    memory_bytes: Optional[int]


class Metrics:
    """Writes metrics.jsonl on the one rank that has the loss."""

    def __init__(self, rank: Rank, device: str) -> None:
        self._lines = JsonLines(rank.paths.metrics, parents=True)
        self._world_size = rank.world_size
        self._gpu = device == "gpu"
        self._waiting: Optional[EndedIteration] = None

    def measure(self, context: Any, seconds: float) -> None:
        """Take the numbers of an iteration that has just ended; `seconds` is how long it took."""
        # Whatever the iteration before still holds back has arrived by now.
        self.settle(context.state, wait=True)
        train = context.state.train_state
        losses = dict(context.loss_dict or {})
        values, ready = _to_host(list(losses.values()), self._gpu)
        self._waiting = EndedIteration(
            # Bridge counts the iteration after its callbacks.
            iteration=int(train.step) + 1,
            seconds=seconds,
            time=time.time(),
            learning_rate=_learning_rate(context.optimizer),
            grad_norm=None if context.grad_norm is None else float(context.grad_norm),
            skipped=bool(context.skipped_iter),
            samples_before=int(train.consumed_train_samples),
            flops_before=float(train.floating_point_operations_so_far),
            names=list(losses),
            numbers=values,
            ready=ready,
            memory_bytes=_peak_memory() if self._gpu else None,
        )

    def settle(self, state: Any, wait: bool) -> None:
        """Write the last iteration's line, once Bridge has counted its samples and its numbers have arrived."""
        step = self._waiting
        if step is None or state.train_state.step < step.iteration:
            return
        if step.ready is not None and not step.ready.query():
            if not wait:
                return
            step.ready.synchronize()
        self._waiting = None
        self._lines.append(self._line(step, state))

    def _line(self, step: EndedIteration, state: Any) -> dict[str, Any]:
        config, train = state.cfg, state.train_state
        losses = {name: float(value) for name, value in zip(step.names, step.numbers, strict=True)}
        loss = losses.pop(LOSS, None)
        tokens = (int(train.consumed_train_samples) - step.samples_before) * int(config.model.seq_length)
        flops = float(train.floating_point_operations_so_far) - step.flops_before
        return {
            "iteration": step.iteration,
            "train_iters": int(config.train.train_iters),
            "loss": loss,
            "grad_norm": step.grad_norm,
            "learning_rate": step.learning_rate,
            "seconds": step.seconds,
            "tokens": tokens,
            "tokens_per_second": tokens / step.seconds,
            "tflops_per_gpu": flops / step.seconds / self._world_size / 1e12 if flops > 0 else None,
            "memory_bytes": step.memory_bytes,
            "time": step.time,
            **({"skipped": True} if step.skipped else {}),
            **({"losses": losses} if losses else {}),
        }


def _to_host(values: list[Any], gpu: bool) -> tuple[Any, Optional[Any]]:
    """Floats and None, or numbers on their way to the host and the event after which they have arrived."""
    if not gpu or not values:
        return [float(value) for value in values], None
    import torch

    stacked = torch.stack([value.detach().reshape(()).double() for value in values])
    host = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
    host.copy_(stacked, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return host, ready


def _peak_memory() -> int:
    import torch

    return int(torch.cuda.max_memory_allocated())


def _learning_rate(optimizer: Any) -> Optional[float]:
    # The last group that is not decoupled, as in Bridge's own log.
    rates = [group["lr"] for group in optimizer.param_groups if len(group) and not group.get("is_decoupled_lr")]
    return float(rates[-1]) if rates else None
