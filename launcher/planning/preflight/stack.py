"""Does the image hold what the configuration needs of it? Silent where the image has no Megatron that could be found.

Warnings only: what was built into an image by hand leaves no metadata behind by which it could be found.
"""

from collections.abc import Iterator

from launcher.planning.preflight.findings import ConfigView, Finding


def apex(view: ConfigView) -> Iterator[Finding]:
    """megatron-core's own linear layers (the output layer is one) accumulate gradients with a kernel of APEX's.

    tensor_parallel/layers.py of megatron-core 0.19.2; Bridge 0.6.2's recipes ask only for Transformer Engine.
    """
    if view.flag("model.gradient_accumulation_fusion") and _lacks(view, "apex"):
        yield Finding(
            "model.gradient_accumulation_fusion=true needs APEX with its CUDA extensions, and the image has no apex "
            "that could be found",
            "set model.gradient_accumulation_fusion=false, or build APEX into the image",
        )


def transformer_engine(view: ConfigView) -> Iterator[Finding]:
    """Layers of Transformer Engine, in an image without it."""
    if view.values.get("model.transformer_impl") == "transformer_engine" and _lacks(view, "transformer-engine"):
        yield Finding(
            "model.transformer_impl=transformer_engine, and the image has no Transformer Engine that could be found",
            "choose an image with it",
        )


def _lacks(view: ConfigView, package: str) -> bool:
    return view.packages is not None and "megatron-core" in view.packages and package not in view.packages


RULES = (apex, transformer_engine)
"""In the order in which they are told."""
