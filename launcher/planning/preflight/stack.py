"""Rules about packages in the image: whether it has those that the configuration needs.

They warn only, because software that was built into an image by hand may leave no metadata. They yield nothing if no
metadata of megatron-core was found.
"""

from collections.abc import Iterator

from launcher.planning.preflight.findings import ConfigView, Finding


def apex(view: ConfigView) -> Iterator[Finding]:
    """Warn if gradient accumulation fusion is on and the image has no APEX.

    megatron-core's own linear layers, such as the output layer, accumulate gradients with a kernel of APEX. Source:
    tensor_parallel/layers.py of megatron-core 0.19.2; Bridge 0.6.2's recipes check only for Transformer Engine.
    """
    if view.flag("model.gradient_accumulation_fusion") and _lacks(view, "apex"):
        yield Finding(
            "model.gradient_accumulation_fusion=true needs APEX with its CUDA extensions, and no apex was found in the "
            "image",
            "set model.gradient_accumulation_fusion=false, or build APEX into the image",
        )


def transformer_engine(view: ConfigView) -> Iterator[Finding]:
    """Warn if the model uses layers of Transformer Engine and the image does not have it."""
    if view.values.get("model.transformer_impl") == "transformer_engine" and _lacks(view, "transformer-engine"):
        yield Finding(
            "model.transformer_impl=transformer_engine, and no Transformer Engine was found in the image",
            "choose an image that has it",
        )


def _lacks(view: ConfigView, package: str) -> bool:
    return view.packages is not None and "megatron-core" in view.packages and package not in view.packages


RULES = (apex, transformer_engine)
"""In the order of their findings."""
