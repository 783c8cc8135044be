"""The same small batch through both models in fp32: a mapping that misplaces weights shows at once."""

import re
from pathlib import Path
from typing import Any, Optional

from ...contract.conversion import ConversionRequest
from ...contract.events import EventWriter
from ...contract.units import bytes_text
from ..errors import first_line

SEED = 0
SHAPE = (2, 16)
"""Shape of the batch: samples, tokens."""

TOLERANCE = {"cpu": 1e-3, "gpu": 1e-2}
"""Share of the largest logit. fp32 rounding of deep models stays well below; TF32 on GPUs comes near the second."""

_FP32 = 4


MERGED_TOLERANCE = 3e-2
"""The same for adapters that were merged into weights of 16 bits: each sum is rounded to 8 bits of mantissa or more."""


def compare(
    model: "list[Any]",
    directory: Path,
    request: ConversionRequest,
    device: str,
    events: EventWriter,
    adapters: Optional[Path] = None,
) -> "dict[str, Any]":
    """Compare the logits of the Megatron `model` with those of the Hugging Face model in `directory`.

    With `adapters` the peft library adds those of that directory to the Hugging Face model.

    The answer is complete on rank 0 only, and every rank must call this. It turns `model` into fp32, so it comes last.
    `compared` is False with a `reason` where both models do not fit into memory together, or cannot run here.
    """
    import torch

    rank = torch.distributed.get_rank()
    reason = [_reason(model, request) if rank == 0 else None]
    torch.distributed.broadcast_object_list(reason, src=0)
    if reason[0] is not None:
        return {"compared": False, "reason": reason[0]}
    events.stage("comparing logits")
    config = [_vocabulary(directory) if rank == 0 else None]
    torch.distributed.broadcast_object_list(config, src=0)
    ids = torch.randint(int(config[0] or 1), SHAPE, generator=torch.Generator().manual_seed(SEED))
    try:
        mine = megatron_logits(model[0], ids, device)
        theirs = _hugging_face(directory, ids, adapters) if rank == 0 else None
    except Exception as error:  # a model that this machine or this transformers cannot run is still converted
        words = first_line(error)
        return {"compared": False, "reason": f"the model cannot be run here: {type(error).__name__}: {words}"}
    if theirs is None:
        return {}
    size = min(mine.shape[-1], theirs.shape[-1])  # the vocabulary may be padded
    apart = float((mine[..., :size] - theirs[..., :size]).abs().max())
    scale = float(theirs.abs().max())
    share = TOLERANCE[device]
    if request.merge and request.dtype != "float32":
        share = max(share, MERGED_TOLERANCE)
    return {
        "compared": True,
        "ok": apart <= share * scale,
        "max_difference": apart,
        "largest_logit": scale,
        "tolerance": share * scale,
        "samples": SHAPE[0],
        "tokens": SHAPE[1],
    }


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> Optional[int]:
    """Return the memory that processes can still get on this machine; None where the kernel does not say."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _reason(model: "list[Any]", request: ConversionRequest) -> Optional[str]:
    if not request.logits:
        return "skipped with --no-logits"
    if request.pp > 1:
        return "the model is split into pipeline stages; convert with --pp 1 to compare"
    # Both models in fp32; the Megatron one is already loaded, with two or more bytes per parameter.
    parameters = sum(one.numel() for chunk in model for one in chunk.parameters()) * request.ranks
    need, free = 2 * _FP32 * parameters, available_bytes()
    if free is not None and need > free:
        return f"both models in fp32 need {bytes_text(need)} of memory, but only {bytes_text(free)} are available"
    return None


def _vocabulary(directory: Path) -> int:
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(str(directory)).get_text_config().vocab_size)


def megatron_logits(chunk: Any, ids: Any, device: str) -> Any:
    """Return the logits of Megatron's model, which becomes fp32, for ids of the shape (samples, tokens), on the CPU."""
    import torch
    from megatron.core import tensor_parallel
    from megatron.core.utils import unwrap_model

    model = unwrap_model(chunk).float().eval()
    torch_device = "cpu" if device == "cpu" else "cuda"
    length = ids.shape[1]
    masked = torch.triu(torch.ones(length, length, dtype=torch.bool, device=torch_device), 1)[None, None]
    positions = torch.arange(length, device=torch_device)[None].expand_as(ids)
    with torch.no_grad():
        found = model(ids.to(torch_device), positions, masked)
        return tensor_parallel.gather_from_tensor_model_parallel_region(found).float().cpu()


def hugging_face_model(directory: Path, adapters: Optional[Path]) -> Any:
    """Return transformers' model of a directory in fp32, with the adapters that the peft library adds."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(directory), dtype=torch.float32)
    if adapters is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapters))
    return model.eval()


def _hugging_face(directory: Path, ids: Any, adapters: Optional[Path]) -> Any:
    import torch

    model = hugging_face_model(directory, adapters)
    with torch.no_grad():
        return model(input_ids=ids).logits.float()
