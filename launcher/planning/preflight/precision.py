"""Can the GPU compute in the precision that is asked for, and do the sizes fit it?

NVIDIA's architectures by GPU: bf16 from Ampere on, FP8 from Hopper on (Ada is left out here), MXFP8 and FP4 from
Blackwell on (NVIDIA's data sheets; Transformer Engine's check_fp8_support, check_mxfp8_support).
"""

import re
from collections.abc import Iterator

from launcher.planning.preflight.findings import Finding, Seen, refused

_GENERATION = {"V100": 7, "A100": 8, "H100": 9, "H200": 9, "B200": 10, "GB200": 10, "B300": 10, "GB300": 10}
"""Major number of the compute capability."""

_AMPERE, _HOPPER, _BLACKWELL = 8, 9, 10
_ROWS, _COLUMNS = 8, 16
"""FP8 products need a multiple of 8 rows and of 16 columns (Transformer Engine, assert_dim_for_fp8_exec)."""


def hardware(seen: Seen) -> Iterator[Finding]:
    """The profile's GPU against bf16, FP8, MXFP8 and FP4."""
    generation = _GENERATION.get((seen.gpu or "").upper())
    if generation is None or not seen.gpus:
        return
    for text, needed, names in _asked(seen):
        if generation < needed:
            yield refused(
                f"{text} needs {names}, and the cluster profile says that its GPUs are of type {seen.gpu}",
                "choose another mixed_precision, or another cluster",
            )


def _asked(seen: Seen) -> Iterator[tuple[str, int, str]]:
    """What is asked for, the generation that has it, and that in words; the most demanding first."""
    plan = seen.values.get("mixed_precision")
    words = plan if isinstance(plan, str) and not seen.complete else ""
    if seen.values.get("model.fp4") or re.search("fp4", words):
        yield f"FP4 ({_said(seen, 'model.fp4', words)})", _BLACKWELL, "Blackwell"
    elif seen.values.get("model.fp8") and seen.values.get("model.fp8_recipe") == "mxfp8":
        yield "MXFP8 (model.fp8_recipe=mxfp8)", _BLACKWELL, "Blackwell"
    elif "mxfp8" in words:
        yield f"MXFP8 (mixed_precision={words})", _BLACKWELL, "Blackwell"
    elif seen.values.get("model.fp8") or "fp8" in words:
        yield f"FP8 ({_said(seen, 'model.fp8', words)})", _HOPPER, "Hopper or newer"
    if seen.values.get("model.bf16") or words.startswith("bf16"):
        yield f"bf16 ({_said(seen, 'model.bf16', words)})", _AMPERE, "Ampere or newer"


def _said(seen: Seen, key: str, words: str) -> str:
    value = seen.values.get(key)
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}" if value else f"mixed_precision={words}"


def fp8_shapes(seen: Seen) -> Iterator[Finding]:
    """Rows and columns of what is multiplied in FP8."""
    if not (seen.values.get("model.fp8") and seen.complete):
        return
    tp = seen.size("tensor_model_parallel_size") or 1
    for name, parts in (("hidden_size", 1), ("ffn_hidden_size", tp)):
        value = seen.number(f"model.{name}")
        if value and value % parts == 0 and value // parts % _COLUMNS:
            over = f" / TP {tp}" if parts > 1 else ""
            yield refused(f"model.{name}={value}{over} is no multiple of {_COLUMNS}, as FP8 products need")
    length, micro = seen.number("model.seq_length"), seen.number("train.micro_batch_size")
    cp = seen.size("context_parallel_size") or 1
    if length and micro and length * micro // cp % _ROWS:
        yield refused(
            f"{length * micro // cp} tokens of a micro-batch (model.seq_length={length}, "
            f"train.micro_batch_size={micro}, CP {cp}) are no multiple of {_ROWS}, as FP8 products need"
        )


RULES = (hardware, fp8_shapes)
"""In the order in which they are told."""
