"""Probes of a training: what each rank holds at each stage, so that two trainings can be compared from the inside.

Both frameworks build megatron.core's GPTModel, read batches through its RerunDataIterator and end a step with its
OptimizerParamScheduler: the probes are there, and are the same for both. Each rank writes lines to probe/NNNN.jsonl in
the order in which things happen; a value is a checksum, or a number with all its digits.
"""

import hashlib
from typing import Any, Optional

from ..contract.files import JsonLines
from .rank import Rank

STEPS = 3
"""Parameters, layers and gradients are recorded in so many first iterations; batches and losses in all."""


def install(rank: Rank) -> None:
    """Patch the classes of megatron.core in this process. Called before a model is built."""
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
    from megatron.core.rerun_state_machine import RerunDataIterator

    probe = _Probe(JsonLines(rank.paths.probe(rank.rank), parents=True))
    build, forward = GPTModel.__init__, GPTModel.forward
    step, following = OptimizerParamScheduler.step, RerunDataIterator.__next__

    def built(self: Any, *arguments: Any, **keywords: Any) -> None:
        probe.generators("before the model")
        build(self, *arguments, **keywords)
        probe.model_made(self)

    def passed(self: Any, *arguments: Any, **keywords: Any) -> Any:
        if not self.training:
            return forward(self, *arguments, **keywords)
        probe.before_forward(self)
        output = forward(self, *arguments, **keywords)
        probe.after_forward(self, output)
        return output

    def stepped(self: Any, *arguments: Any, **keywords: Any) -> Any:
        probe.step_done(self)
        return step(self, *arguments, **keywords)

    def batch(self: Any) -> Any:
        found = following(self)
        probe.batch = found
        return found

    GPTModel.__init__, GPTModel.forward = built, passed
    OptimizerParamScheduler.step, RerunDataIterator.__next__ = stepped, batch


class _Probe:
    def __init__(self, lines: JsonLines) -> None:
        self._lines = lines
        self._models: list[Any] = []
        self._iteration = 1
        self._forwards = 0
        self.batch: Optional[Any] = None

    def _write(self, stage: str, name: str, value: Any) -> None:
        self._lines.append({"stage": stage, "iteration": self._iteration, "name": name, "value": value})

    def generators(self, when: str) -> None:
        """Record the states of the generators: the CPU's, the device's, and the tensor-parallel ones."""
        import torch
        from megatron.core.tensor_parallel import get_cuda_rng_tracker

        self._write("generator", f"{when}: cpu", _sum(torch.get_rng_state()))
        if torch.cuda.is_available():
            self._write("generator", f"{when}: cuda", _sum(torch.cuda.get_rng_state()))
        states = get_cuda_rng_tracker().get_states()
        for name in sorted(states):
            if torch.is_tensor(states[name]):
                self._write("generator", f"{when}: {name}", _sum(states[name]))

    def model_made(self, model: Any) -> None:
        """Record the initial parameters, and follow the layers."""
        self.generators("after the model")
        self._parameters("initialisation", model, "")
        self._models.append(model)
        decoder = getattr(model, "decoder", None)
        for index, layer in enumerate(getattr(decoder, "layers", ())):
            layer.register_forward_hook(self._layer_hook(f"layer {index}"))
        if getattr(model, "embedding", None) is not None:
            model.embedding.register_forward_hook(self._layer_hook("embedding"))

    def _layer_hook(self, name: str) -> Any:
        def hook(module: Any, _inputs: Any, output: Any) -> None:
            if module.training and self._iteration <= STEPS and self._forwards == 0:
                value = output[0] if isinstance(output, tuple) else output
                self._write("forward", name, _norm(value))

        return hook

    def _parameters(self, stage: str, model: Any, when: str) -> None:
        for name, parameter in model.named_parameters():
            self._write(stage, f"{when}{name}", f"{list(parameter.shape)} {_sum(parameter)}")

    def before_forward(self, model: Any) -> None:
        """Record what a micro-batch begins with."""
        if self._forwards == 0 and self._iteration <= STEPS:
            if self._iteration == 1:
                self._parameters("initialisation", model, "before the first forward: ")
                self.generators("before the first forward")
            else:
                self._parameters("optimizer", model, "after the step: ")
        if isinstance(self.batch, dict):
            for name in ("tokens", "labels", "loss_mask"):
                if self.batch.get(name) is not None:
                    self._write("data", f"micro-batch {self._forwards}: {name}", _sum(self.batch[name]))
        self.batch = None

    def after_forward(self, _model: Any, output: Any) -> None:
        """Record the loss of a micro-batch, or what goes to the next pipeline stage."""
        import torch

        if torch.is_tensor(output):
            self._write("forward", f"micro-batch {self._forwards}: output", _norm(output))
        self._forwards += 1

    def step_done(self, scheduler: Any) -> None:
        """Record gradients and what the optimizer has just used; a scheduler that is only loaded does not count."""
        if self._forwards == 0:
            return
        if self._iteration <= STEPS:
            for model in self._models:
                for name, parameter in model.named_parameters():
                    gradient = getattr(parameter, "main_grad", None)
                    if gradient is not None:
                        self._write("backward", f"gradient of {name}", _norm(gradient))
        groups = scheduler.optimizer.param_groups
        for name in ("lr", "weight_decay"):
            self._write("optimizer", f"{name} used", [group.get(name) for group in groups])
        for name in ("betas", "eps"):
            if groups and name in groups[0]:
                self._write("optimizer", f"{name} used", groups[0][name])
        self._iteration += 1
        self._forwards = 0


def _sum(tensor: Any) -> str:
    """Return a checksum of a tensor's bytes."""
    import torch

    held = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(held.numpy().tobytes()).hexdigest()[:16]


def _norm(tensor: Any) -> float:
    """Return the sum of absolute values, in double precision."""
    return float(tensor.detach().double().abs().sum())
