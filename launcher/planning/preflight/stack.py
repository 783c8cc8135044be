"""Does the image hold what the configuration needs of it? Silent where the image has no Megatron that could be found.

Warnings only: what was built into an image by hand leaves no metadata behind by which it could be found.
"""

from collections.abc import Iterator

from launcher.planning.preflight.findings import Finding, Seen


def apex(seen: Seen) -> Iterator[Finding]:
    """megatron-core's own linear layers (the output layer is one) accumulate gradients with a kernel of APEX's.

    tensor_parallel/layers.py of megatron-core 0.19.2; Bridge 0.6.2's recipes ask only for Transformer Engine.
    """
    if seen.flag("model.gradient_accumulation_fusion") and _lacks(seen, "apex"):
        yield Finding(
            "model.gradient_accumulation_fusion=true needs APEX with its CUDA extensions, and the image has no apex "
            "that could be found",
            "set model.gradient_accumulation_fusion=false, or build APEX into the image",
        )


def transformer_engine(seen: Seen) -> Iterator[Finding]:
    """Layers of Transformer Engine, in an image without it."""
    if seen.values.get("model.transformer_impl") == "transformer_engine" and _lacks(seen, "transformer-engine"):
        yield Finding(
            "model.transformer_impl=transformer_engine, and the image has no Transformer Engine that could be found",
            "choose an image with it",
        )


def _lacks(seen: Seen, package: str) -> bool:
    return seen.packages is not None and "megatron-core" in seen.packages and package not in seen.packages


RULES = (apex, transformer_engine)
"""In the order in which they are told."""
