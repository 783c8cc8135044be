"""A recipe of Megatron Bridge with one planted difference, which no comparison of configurations shows."""

import os
from collections.abc import Callable
from typing import Any


def configure(plant: str = "none") -> Any:
    """Configure the smallest GPT, and plant what `plant` names."""
    from megatron.bridge.recipes.gpt.vanilla_gpt import vanilla_gpt_pretrain_config

    cfg = vanilla_gpt_pretrain_config()
    cfg.model.num_layers = 2
    cfg.model.hidden_size = 32
    cfg.model.num_attention_heads = 2
    cfg.model.ffn_hidden_size = 64
    cfg.model.seq_length = cfg.dataset.seq_length = 32
    cfg.model.hidden_dropout = cfg.model.attention_dropout = 0.0
    cfg.model.make_vocab_size_divisible_by = 8
    cfg.tokenizer.vocab_size = 255
    cfg.train.train_iters = 7
    cfg.train.global_batch_size = 4
    cfg.train.micro_batch_size = 2
    cfg.optimizer.lr = 5e-3
    cfg.scheduler.lr_warmup_iters = 0
    cfg.scheduler.lr_decay_iters = 7
    cfg.mixed_precision = None
    cfg.optimizer.bf16 = False
    cfg.optimizer.use_distributed_optimizer = False
    cfg.validation.eval_iters = 0
    cfg.logger.log_interval = 1
    cfg.checkpoint.save = None
    PLANTS[plant](cfg)
    return cfg


def _nothing(_cfg: Any) -> None:
    pass


def _after_model(change: Callable[[Any], None]) -> None:
    """Change the model when it is wrapped for data parallelism."""
    from megatron.core.distributed import DistributedDataParallel

    wrap = DistributedDataParallel.__init__

    def changed(self: Any, *arguments: Any, **keywords: Any) -> None:
        wrap(self, *arguments, **keywords)
        change(self.module)

    DistributedDataParallel.__init__ = changed


def _in_init(before: bool, change: Callable[[Any], None]) -> None:
    from megatron.core.models.gpt.gpt_model import GPTModel

    build = GPTModel.__init__

    def changed(self: Any, *arguments: Any, **keywords: Any) -> None:
        if before:
            change(self)
        build(self, *arguments, **keywords)
        if not before:
            change(self)

    GPTModel.__init__ = changed


def _epsilon(_cfg: Any) -> None:
    """A Megatron-Core whose layer norms have another epsilon than the configuration says."""
    import torch

    def change(model: Any) -> None:
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-3

    _in_init(False, change)


def _permuted_documents(_cfg: Any) -> None:
    """Other samples under the same path: the first two are exchanged."""
    from megatron.core.datasets.gpt_dataset import MockGPTDataset

    get = MockGPTDataset.__getitem__
    MockGPTDataset.__getitem__ = lambda self, index: get(self, {0: 1, 1: 0}.get(index, index))


def _draw(_cfg: Any) -> None:
    """One more random number before the model is made."""
    import torch
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    def change(_model: Any) -> None:
        with get_cuda_rng_tracker().fork():
            torch.rand(1)

    _in_init(True, change)


def _variable(_cfg: Any) -> None:
    """A program that reads a variable."""
    import torch
    from megatron.core.transformer.transformer_layer import TransformerLayer

    forward = TransformerLayer.forward
    factor = float(os.environ.get("PLANTED_SCALE", "1"))

    def changed(self: Any, *arguments: Any, **keywords: Any) -> Any:
        found = forward(self, *arguments, **keywords)
        if isinstance(found, tuple) and torch.is_tensor(found[0]):
            return (found[0] * factor, *found[1:])
        return found

    TransformerLayer.forward = changed


def _flipped_weight(_cfg: Any) -> None:
    """One weight has another sign after everything was made."""
    import torch

    def change(model: Any) -> None:
        with torch.no_grad():
            next(model.parameters()).view(-1)[5].mul_(-1)

    _after_model(change)


def _unfused(_cfg: Any) -> None:
    """Another order of the same operations after attention: bias and dropout outside the compiled function."""
    from megatron.core.fusions import fused_bias_dropout
    from megatron.core.models.gpt import gpt_layer_specs
    from megatron.core.transformer import transformer_layer

    def other(_training: bool, _fused: bool) -> Any:
        def add(x_with_bias: Any, residual: Any, prob: float) -> Any:
            import torch

            x, bias = x_with_bias
            moved = residual * (1 + 2e-7)
            return torch.nn.functional.dropout(x, p=prob) + (moved if bias is None else moved + bias)

        return add

    for module in (fused_bias_dropout, gpt_layer_specs, transformer_layer):
        if hasattr(module, "get_bias_dropout_add"):
            module.get_bias_dropout_add = other


def _adam_epsilon(_cfg: Any) -> None:
    """An optimizer with another epsilon than the configuration says."""
    import torch

    step = torch.optim.AdamW.step

    def changed(self: Any, *arguments: Any, **keywords: Any) -> Any:
        for group in self.param_groups:
            group["eps"] = 1e-4
        return step(self, *arguments, **keywords)

    torch.optim.AdamW.step = changed


def _scaled_gradient(_cfg: Any) -> None:
    """A backward pass that scales one gradient; the forward pass is as it was."""

    def change(model: Any) -> None:
        model.decoder.final_layernorm.weight.register_hook(lambda gradient: gradient * 1.01)

    _in_init(False, change)


def _loss_mask(_cfg: Any) -> None:
    """One token of each sample does not count."""
    from megatron.core.datasets.gpt_dataset import MockGPTDataset

    get = MockGPTDataset.__getitem__

    def changed(self: Any, index: Any) -> Any:
        found = dict(get(self, index))
        found["loss_mask"] = found["loss_mask"].clone()
        found["loss_mask"][0] = 0.0
        return found

    MockGPTDataset.__getitem__ = changed


def _initial_scale(_cfg: Any) -> None:
    """Initial weights of one layer are larger by a millionth."""
    import torch

    def change(model: Any) -> None:
        with torch.no_grad():
            model.decoder.layers[1].mlp.linear_fc1.weight.mul_(1 + 1e-6)

    _in_init(False, change)


def _late_rate(_cfg: Any) -> None:
    """A scheduler that gives another rate from the third step on."""
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    rate = OptimizerParamScheduler.get_lr

    def changed(self: Any, group: Any) -> float:
        found = float(rate(self, group))
        return found * 1.001 if self.num_steps >= 8 else found

    OptimizerParamScheduler.get_lr = changed


def _padding(_cfg: Any) -> None:
    """A vocabulary that is padded further than the configuration says."""
    from megatron.core.models.gpt.gpt_model import GPTModel

    build = GPTModel.__init__

    def changed(self: Any, *arguments: Any, **keywords: Any) -> None:
        keywords["vocab_size"] = keywords["vocab_size"] + 64
        build(self, *arguments, **keywords)

    GPTModel.__init__ = changed


def _sample(change: Callable[[dict[str, Any]], None]) -> None:
    from megatron.core.datasets.gpt_dataset import MockGPTDataset

    get = MockGPTDataset.__getitem__

    def changed(self: Any, index: Any) -> Any:
        found = dict(get(self, index))
        change(found)
        return found

    MockGPTDataset.__getitem__ = changed


def _labels(_cfg: Any) -> None:
    """The last label of each sample is another token."""

    def change(sample: dict[str, Any]) -> None:
        sample["labels"] = sample["labels"].clone()
        sample["labels"][-1] = 7

    _sample(change)


def _swapped(_cfg: Any) -> None:
    """The micro-batches of a step come in another order."""
    from megatron.core.datasets.gpt_dataset import MockGPTDataset

    get = MockGPTDataset.__getitem__
    MockGPTDataset.__getitem__ = lambda self, index: get(self, int(index) ^ 2)


def _second_layer(_cfg: Any) -> None:
    """The second layer alone computes something else."""
    import torch

    def change(model: Any) -> None:
        def scaled(_module: Any, _inputs: Any, output: Any) -> Any:
            return output * 1.00001 if torch.is_tensor(output) else (output[0] * 1.00001, *output[1:])

        model.decoder.layers[1].mlp.register_forward_hook(scaled)

    _in_init(False, change)


def _attention(_cfg: Any) -> None:
    """Attention is scaled otherwise."""

    def change(model: Any) -> None:
        for layer in model.decoder.layers:
            core = layer.self_attention.core_attention
            core.softmax_scale = (core.softmax_scale or 1.0) * 1.0001

    _in_init(False, change)


def _groups(**values: Any) -> Callable[[Any], None]:
    def plant(_cfg: Any) -> None:
        import torch

        step = torch.optim.AdamW.step

        def changed(self: Any, *arguments: Any, **keywords: Any) -> Any:
            for group in self.param_groups:
                group.update(values)
            return step(self, *arguments, **keywords)

        torch.optim.AdamW.step = changed

    return plant


def _clip(_cfg: Any) -> None:
    """Gradients are clipped to another norm."""
    from megatron.core.optimizer import clip_grads, optimizer

    clip = clip_grads.clip_grad_by_total_norm_fp32

    def changed(parameters: Any, max_norm: float, *arguments: Any, **keywords: Any) -> Any:
        return clip(parameters, max_norm * 0.5, *arguments, **keywords)

    optimizer.clip_grad_by_total_norm_fp32 = changed


PLANTS: dict[str, Callable[[Any], None]] = {
    "none": _nothing,
    "epsilon": _epsilon,
    "permuted": _permuted_documents,
    "draw": _draw,
    "variable": _variable,
    "flipped": _flipped_weight,
    "unfused": _unfused,
    "adam": _adam_epsilon,
    "gradient": _scaled_gradient,
    "mask": _loss_mask,
    "scale": _initial_scale,
    "rate": _late_rate,
    "padding": _padding,
    "labels": _labels,
    "swapped": _swapped,
    "layer": _second_layer,
    "attention": _attention,
    "betas": _groups(betas=(0.9, 0.94)),
    "decay": _groups(weight_decay=0.5),
    "clip": _clip,
}
