"""How far the losses of two trainings may lie apart by the kind of change between them, each with its source.

Verdicts and `launcher help tolerances` use this table alone. A change that is not in it has no tolerance: there any
difference beyond the noise counts.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from launcher.correlate.settings import Difference


@dataclass(frozen=True)
class Tolerance:
    """One kind of change, and the relative difference of losses that it may cause."""

    name: str
    relative: float
    what: str
    source: str
    keys: str = ""
    """A regular expression for the keys of settings of this kind; empty for a kind that is not a setting."""


_OURS = "docs/measurements/correlation.md"

TOLERANCES: tuple[Tolerance, ...] = (
    Tolerance("repeat", 0.0, "the same training again: its spread is measured, and twice the spread is allowed", _OURS),
    Tolerance("framework", 0.0, "Megatron-LM and Megatron Bridge with matched settings, fp32 or bf16", _OURS),
    Tolerance(
        "commit",
        0.0,
        "another commit of Megatron-Core, Megatron-LM or the recipe, in the same image",
        "NVIDIA/Megatron-LM 00caa53, tests/functional_tests/python_test_utils/test_pretraining_regular_pipeline.py: "
        "equal values are asked for first",
    ),
    Tolerance(
        "image",
        0.01,
        "another image: other releases of CUDA, cuDNN, NCCL or torch",
        "NVIDIA/Megatron-LM, tests/functional_tests/python_test_utils/test_grpo_training_loop.py: 1 % for other GPUs, "
        "drivers and CUDA or cuDNN",
    ),
    Tolerance(
        "distributed optimizer",
        1e-5,
        "the distributed optimizer on or off: the order in which the gradient norm is summed",
        "measured on two H100, bf16, TP=2: 4e-6 after ten iterations",
        r"(ddp|optimizer)\.use_distributed_optimizer",
    ),
    Tolerance(
        "fusion",
        1e-5,
        "a fused kernel in the place of several, with dropout 0: other rounding, or GeLU by tanh in place of erf",
        "measured on H100, bf16: 2e-6 after ten iterations; on CPU, fp32: 3e-7",
        r"model\.(bias_activation_fusion|cross_entropy_loss_fusion|masked_softmax_fusion|persist_layer_norm"
        r"|gradient_accumulation_fusion)",
    ),
    Tolerance(
        "FP8",
        0.005,
        "FP8 in the place of bf16",
        "DeepSeek-V3 Technical Report, arXiv 2412.19437, section 3.3: below 0.25 %; measured on H100, current scaling: "
        "0.35 % at iteration 12",
        "mixed_precision",
    ),
)


def expected_of(differences: Iterable[Difference], *, image: bool, dropout: bool) -> tuple[Tolerance, ...]:
    """Return the kinds of the settings that differ and of another image; none where one that counts is in no row.

    With dropout a fused kernel may draw other masks, so that nothing is expected of it then.
    """
    found: dict[str, Tolerance] = {}
    for one in differences:
        row = _row_of(one)
        if row is not None and not (row.name == "fusion" and dropout):
            found[row.name] = row
        elif one.numbers:
            return ()
    if image:
        found["image"] = next(row for row in TOLERANCES if row.name == "image")
    return tuple(found.values())


def _row_of(one: Difference) -> "Tolerance | None":
    """Return the kind of a setting that differs."""
    row = next((row for row in TOLERANCES if row.keys and re.fullmatch(row.keys, one.key)), None)
    if row is not None and row.name == "FP8":
        precisions = {str(one.left), str(one.right)}
        return row if "fp8" in "".join(precisions) and "None" not in precisions else None
    return row


def page() -> str:
    """Return the table in Markdown."""
    lines = [
        "# Tolerances of `launcher correlate`\n",
        "How far the losses of two trainings may lie apart, relative to the loss, by the kind of change between them.",
        "The largest of these, of `--tolerance` and of twice the noise counts.",
        "A change that is in no row has no tolerance: there any difference beyond the noise counts.",
        "Other parallel sizes start from other weights, so that without a common checkpoint they are not comparable.\n",
        "| kind | tolerance | what | source |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {row.name} | {row.relative:g} | {row.what} | {row.source} |" for row in TOLERANCES]
    return "\n".join(lines) + "\n"


def sentences(rows: Sequence[Tolerance]) -> tuple[str, ...]:
    """Return what is expected of each kind, for the notes of a verdict."""
    return tuple(f"of this change ({row.name}) up to {row.relative:g} is expected: {row.source}" for row in rows)
