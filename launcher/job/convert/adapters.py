"""Adapters of a fine-tuned run: a directory for the peft library, or merged into the weights of their base model."""

from pathlib import Path
from typing import Any

from ...contract.conversion import ConversionRequest
from ...contract.events import EventWriter
from ..errors import UserError, first_line
from ..model import hf_files, weights
from . import logits, model, parity, writing
from .architecture import Architecture

KINDS = ("megatron.bridge.peft.lora.LoRA", "megatron.bridge.peft.canonical_lora.CanonicalLoRA")
"""Kinds of adapters that Bridge 0.6.2 exports whole. It leaves out the magnitudes of DoRA."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_MARK = ".adapter."


def export(
    found: Architecture, request: ConversionRequest, device: str, events: EventWriter, first: bool
) -> "dict[str, Any]":
    """Write the adapters of a checkpoint, or with `merge` the whole model; the report is complete on rank 0 only.

    Raises UserError for adapters that cannot be exported, and where the base model or its weights are not here.
    """
    base = _base(found, request)
    peft = _peft(found.peft or {}, request.source)
    bridge, built = load(found, request, device, events, peft)
    events.stage("comparing the base weights")
    kept = _base_tally(bridge, built, base, first)
    events.stage("writing tensors")
    if request.merge:
        counted = _write_merged(found, bridge, built, request, base, events, first)
        seen = logits.compare(built, request.partial_dir, request, device, events)
    else:
        counted = _write_adapters(bridge, built, peft, request, base, first)
        seen = logits.compare(built, base, request, device, events, adapters=request.partial_dir)
    ok = kept.ok and counted.pop("ok", False) and seen.get("ok", True)
    return {**kept.to_dict(), "ok": ok, "base": str(base), "adapters": counted, "logits": seen}


def load(
    found: Architecture, request: ConversionRequest, device: str, events: EventWriter, peft: Any = None
) -> "tuple[Any, list[Any]]":
    """Return Bridge's mapping and the model with base weights and adapters, in fp32. Raises UserError as `export`."""
    base = _base(found, request)
    peft = peft or _peft(found.peft or {}, request.source)
    bridge = _bridge(base)
    # In fp32, as Bridge exports adapters: what is added to the weights is rounded once, to the type of the result.
    built = model.build(
        bridge, request, device, model.dtype_of("float32"), lambda chunks: _put_on(chunks, bridge, base, peft)
    )
    events.stage("reading the checkpoint")
    _load(built, peft, Path(request.source))
    return bridge, built


def _base(found: Architecture, request: ConversionRequest) -> Path:
    """Return the directory of the base model. Raises UserError where it, or its weights, are not here."""
    if found.directory is None or not hf_files.holds_weights(found.directory):
        raise UserError(
            "this checkpoint holds adapters, and the weights of their base model are not here",
            where=str(found.directory or request.source),
            hint="name the base model's directory: --architecture HF_DIR",
        )
    return found.directory


def _peft(saved: "dict[str, Any]", source: str) -> Any:
    """Return Bridge's adapters as the checkpoint records them. Raises UserError for kinds that lose something."""
    kind = str(saved.get("_target_"))
    if kind not in KINDS:
        name = kind.rpartition(".")[2]
        why = ", which leaves out the magnitude vectors of DoRA" if name == "DoRA" else ""
        raise UserError(f"adapters of the kind {name} cannot be exported by Megatron Bridge{why}", where=source)
    from megatron.bridge.utils.instantiate_utils import instantiate

    try:
        return instantiate({key: value for key, value in saved.items() if key != "params_to_save"})
    except Exception as error:
        raise UserError(f"the adapters' settings cannot be read: {first_line(error)}", where=source) from error


def _bridge(base: Path) -> Any:
    from megatron.bridge import AutoBridge

    with model.supported(str(base)):
        return AutoBridge.from_hf_pretrained(str(base))


def _put_on(chunks: "list[Any]", bridge: Any, base: Path, peft: Any) -> "list[Any]":
    """Load the base weights into a model, then add adapters, which are not set. Return the model's chunks."""
    model.fill_with_nan(chunks)
    with weights.require_all_tensors(str(base)):
        bridge.load_hf_weights(chunks)
    model.require_all_set(chunks, str(base))
    wrapped = peft(chunks, training=False)
    model.fill_with_nan(wrapped, only=_MARK)
    return list(wrapped)


def _load(built: "list[Any]", peft: Any, iteration: Path) -> None:
    from megatron.bridge.training.checkpointing import (
        _generate_model_state_dict,
        apply_peft_adapter_filter_to_state_dict,
    )
    from megatron.core import dist_checkpointing

    peft.set_params_to_save(built)
    wanted = apply_peft_adapter_filter_to_state_dict(_generate_model_state_dict(built, {}), peft)
    try:
        loaded = dist_checkpointing.load(wanted, str(iteration))
        for number, chunk in enumerate(built):
            chunk.load_state_dict(loaded["model" if len(built) == 1 else f"model{number}"], strict=False)
    except Exception as error:
        first = first_line(error) or type(error).__name__
        raise UserError(f"the adapters do not fit this architecture: {first}", where=str(iteration)) from error
    model.require_all_set(built, str(iteration))


def _base_tally(bridge: Any, built: "list[Any]", base: Path, first: bool) -> parity.Tally:
    """Compare the base weights inside the model with adapters with their files."""
    stream = model.export_tensors(bridge, built, merge=False)
    return parity.with_files(stream, hf_files.read_weights(base), _silent, first)


def _silent(_done: int, _total: int) -> None:
    """Report nothing: this comparison is part of a stage that has its own words."""


def _write_adapters(
    bridge: Any, built: "list[Any]", peft: Any, request: ConversionRequest, base: Path, first: bool
) -> "dict[str, Any]":
    bridge.save_hf_adapter(built, request.partial, peft, base_model_name_or_path=str(base), show_progress=False)
    if not first:
        return {}
    from safetensors import safe_open

    written = request.partial_dir / ADAPTER_WEIGHTS
    written.chmod(request.partial_dir.stat().st_mode & 0o666)
    with safe_open(str(written), framework="pt") as file:
        zero = [name for name in file.keys() if "lora_B" in name and not bool(file.get_tensor(name).any())]  # noqa: SIM118
        count = len(list(file.keys()))
    return {"ok": count > 0, "tensors": count, "untrained": zero}


def _write_merged(
    found: Architecture,
    bridge: Any,
    built: "list[Any]",
    request: ConversionRequest,
    base: Path,
    events: EventWriter,
    first: bool,
) -> "dict[str, Any]":
    dtype = model.dtype_of(request.dtype)
    stream = model.export_tensors(bridge, built, dtype)
    writing.write_model(
        stream,
        found,
        request.partial_dir,
        dtype or found.dtype,
        lambda done, total: events.progress(done, total, "tensors"),
        first,
    )
    if not first:
        return {}
    before, after = hf_files.read_weights(base), hf_files.read_weights(request.partial_dir)
    changed = [
        name
        for name in after.tensors
        if name in before.tensors and not _same(parity.read_tensor(before, name), parity.read_tensor(after, name))
    ]
    return {"ok": bool(changed), "tensors": len(after.tensors), "changed": len(changed)}


def _same(before: Any, after: Any) -> bool:
    return tuple(before.shape) == tuple(after.shape) and parity.same_bits(before.to(after.dtype), after)
