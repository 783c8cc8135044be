"""Can the GPU compute in the precision that is asked for, and do the sizes fit it?

NVIDIA's architectures by GPU: bf16 from Ampere on, FP8 from Hopper on (Ada is left out here), MXFP8 and FP4 from
Blackwell on (NVIDIA's data sheets; Transformer Engine's check_fp8_support, check_mxfp8_support).
"""

import re
from collections.abc import Iterator

from launcher.planning.preflight.findings import ConfigView, Finding, refused

_GENERATION = {"V100": 7, "A100": 8, "H100": 9, "H200": 9, "B200": 10, "GB200": 10, "B300": 10, "GB300": 10}
"""Major number of the compute capability."""

_AMPERE, _HOPPER, _BLACKWELL = 8, 9, 10
_ROWS, _COLUMNS = 8, 16
"""FP8 products need a multiple of 8 rows and of 16 columns (Transformer Engine, assert_dim_for_fp8_exec)."""


def hardware(view: ConfigView) -> Iterator[Finding]:
    """The profile's GPU against bf16, FP8, MXFP8 and FP4."""
    generation = _GENERATION.get((view.gpu or "").upper())
    if generation is None or not view.gpus:
        return
    for text, needed, names in _asked(view):
        if generation < needed:
            yield refused(
                f"{text} needs {names}, and the cluster profile says that its GPUs are of type {view.gpu}",
                "choose another mixed_precision, or another cluster",
            )


def _asked(view: ConfigView) -> Iterator[tuple[str, int, str]]:
    """What is asked for, the generation that has it, and that in words; the most demanding first."""
    plan = view.values.get("mixed_precision")
    words = plan if isinstance(plan, str) and not view.complete else ""
    if view.values.get("model.fp4") or re.search("fp4", words):
        yield f"FP4 ({_said(view, 'model.fp4', words)})", _BLACKWELL, "Blackwell"
    elif view.values.get("model.fp8") and view.values.get("model.fp8_recipe") == "mxfp8":
        yield "MXFP8 (model.fp8_recipe=mxfp8)", _BLACKWELL, "Blackwell"
    elif "mxfp8" in words:
        yield f"MXFP8 (mixed_precision={words})", _BLACKWELL, "Blackwell"
    elif view.values.get("model.fp8") or "fp8" in words:
        yield f"FP8 ({_said(view, 'model.fp8', words)})", _HOPPER, "Hopper or newer"
    if view.values.get("model.bf16") or words.startswith("bf16"):
        yield f"bf16 ({_said(view, 'model.bf16', words)})", _AMPERE, "Ampere or newer"


def _said(view: ConfigView, key: str, words: str) -> str:
    value = view.values.get(key)
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}" if value else f"mixed_precision={words}"


def fp8_shapes(view: ConfigView) -> Iterator[Finding]:
    """Rows and columns of what is multiplied in FP8."""
    if not (view.values.get("model.fp8") and view.complete):
        return
    tp = view.size("tensor_model_parallel_size") or 1
    for name, parts in (("hidden_size", 1), ("ffn_hidden_size", tp)):
        value = view.number(f"model.{name}")
        if value and value % parts == 0 and value // parts % _COLUMNS:
            over = f" / TP {tp}" if parts > 1 else ""
            yield refused(f"model.{name}={value}{over} is no multiple of {_COLUMNS}, as FP8 products need")
    length, micro = view.number("model.seq_length"), view.number("train.micro_batch_size")
    cp = view.size("context_parallel_size") or 1
    if length and micro and length * micro // cp % _ROWS:
        yield refused(
            f"{length * micro // cp} tokens of a micro-batch (model.seq_length={length}, "
            f"train.micro_batch_size={micro}, CP {cp}) are no multiple of {_ROWS}, as FP8 products need"
        )


RULES = (hardware, fp8_shapes)
"""In the order in which they are told."""
