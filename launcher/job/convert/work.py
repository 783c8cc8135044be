"""What each rank of a conversion does, in order."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Optional

from ...contract.conversion import REPORT, ConversionRequest
from ...contract.events import EventWriter
from ..config import notes
from ..errors import UserError
from ..model import hf_files, weights
from . import adapters, architecture, logits, model, parity, writing


def run(request: ConversionRequest, events: EventWriter) -> bool:
    """Convert into `request.partial` and write the report there; return whether result and source are equal."""
    import torch

    began = time.monotonic()
    events.stage("loading Megatron")
    device = model.init_ranks(request)
    ok = convert(request, device, events, began)
    torch.distributed.destroy_process_group()
    return ok


def convert(request: ConversionRequest, device: str, events: EventWriter, began: Optional[float] = None) -> bool:
    """Run one conversion among ranks that have joined already; the model's groups are destroyed afterwards."""
    import torch
    from megatron.core import parallel_state

    began = time.monotonic() if began is None else began
    report = import_model(request, device, events) if request.action == "import" else export(request, device, events)
    answer = [bool(report.get("ok"))]
    torch.distributed.broadcast_object_list(answer, src=0)
    if torch.distributed.get_rank() == 0:
        for text in notes.take():
            events.line(f"note: {text}")
        report |= {"seconds": round(time.monotonic() - began, 1), **_about(request, device)}
        path = request.partial_dir / REPORT
        path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    torch.distributed.barrier()
    parallel_state.destroy_model_parallel()
    return answer[0]


def import_model(request: ConversionRequest, device: str, events: EventWriter) -> "dict[str, Any]":
    """Convert a Hugging Face directory into a checkpoint; the report is complete on rank 0 only."""
    from megatron.bridge import AutoBridge

    source = Path(request.source)
    with model.supported(str(source)):
        bridge = AutoBridge.from_hf_pretrained(str(source))
    built = model.build(bridge, request, device, model.dtype_of(request.dtype))
    events.stage("reading weights")
    with weights.require_all_tensors(str(source)):
        bridge.load_hf_weights(built)
    model.require_all_set(built, str(source))
    events.stage("writing the checkpoint")
    bridge.save_megatron_model(built, request.partial)
    return judge_import(bridge, built, request, device, events)


def judge_import(
    bridge: Any, built: "list[Any]", request: ConversionRequest, device: str, events: EventWriter
) -> "dict[str, Any]":
    """Compare what the written checkpoint holds with its source files."""
    files = hf_files.read_weights(Path(request.source))
    events.stage("comparing")
    model.fill_with_nan(built)
    model.load_checkpoint(built, next(request.partial_dir.glob("iter_*")))
    tally = parity.with_files(model.export_tensors(bridge, built), files, _tensors(events), _is_first())
    seen = logits.compare(built, files.directory, request, device, events)
    return {**tally.to_dict(), "ok": tally.ok and seen.get("ok", True), "logits": seen}


def export(request: ConversionRequest, device: str, events: EventWriter) -> "dict[str, Any]":
    """Convert a checkpoint into a Hugging Face directory: a model, or adapters for the peft library."""
    found = architecture.of_checkpoint(Path(request.source), request.architecture)
    if found.peft is not None:
        request = replace(request, merge=request.merge or request.whole)
        return adapters.export(found, request, device, events, _is_first())
    if request.merge:
        raise UserError("--merge has no effect: this checkpoint holds a whole model", where=request.source)
    built = model.build(found.bridge, request, device, found.dtype)
    events.stage("reading the checkpoint")
    model.load_checkpoint(built, Path(request.source))
    events.stage("writing tensors")
    dtype = model.dtype_of(request.dtype)
    stream = model.export_tensors(found.bridge, built, dtype)
    writing.write_model(stream, found, request.partial_dir, dtype or found.dtype, _tensors(events), _is_first())
    return judge_export(found.bridge, built, request, device, events)


def judge_export(
    bridge: Any, built: "list[Any]", request: ConversionRequest, device: str, events: EventWriter
) -> "dict[str, Any]":
    """Load the written files into a Megatron model again, and compare it with the checkpoint's weights."""
    import torch

    events.stage("comparing")
    before = {name: parameter.cpu().clone() for name, parameter in parity.parameters(built)}
    if request.dtype is not None:
        before = {name: one.to(model.dtype_of(request.dtype)).to(one.dtype) for name, one in before.items()}
    model.fill_with_nan(built)
    with weights.require_all_tensors(request.partial):
        bridge.load_hf_weights(built, hf_path=request.partial)
    tallies: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(tallies, parity.with_parameters(before, built))
    tally = parity.combined(tallies)
    known = parity.names_for_transformers(request.partial_dir) if _is_first() else {}
    seen = logits.compare(built, request.partial_dir, request, device, events)
    ok = tally.ok and not any(known.values()) and seen.get("ok", True)
    return {**tally.to_dict(), "ok": ok, "transformers": known, "logits": seen}


def _is_first() -> bool:
    import torch

    return bool(torch.distributed.get_rank() == 0)


def _tensors(events: EventWriter) -> Callable[[int, int], None]:
    """Return a function that reports how many tensors of the stage are done."""
    return lambda done, total: events.progress(done, total, "tensors")


def _about(request: ConversionRequest, device: str) -> "dict[str, Any]":
    return {
        "action": request.action,
        "source": request.source,
        "target": request.partial,
        "parallel": {"tp": request.tp, "pp": request.pp, "ep": request.ep, "ranks": request.ranks},
        "device": device,
        "dtype": request.dtype,
        "versions": {name: _version(name) for name in ("megatron-bridge", "megatron-core", "torch", "transformers")},
        "python": sys.version.split()[0],
    }


def _version(name: str) -> str:
    """Return the version of a package, or that it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
