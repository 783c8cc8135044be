"""Rules about packages in the image, and programs around the ranks, that the configuration needs.

Of packages they warn only, because software that was built into an image by hand may leave no metadata. They yield
nothing of them if no metadata of megatron-core was found.
"""

from collections.abc import Iterator

from launcher.planning.preflight.findings import ConfigView, Finding, refused


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


def fault_tolerance(view: ConfigView) -> Iterator[Finding]:
    """Refuse Bridge's fault tolerance where nothing starts the monitors that its ranks connect to.

    Source: megatron/bridge/training/fault_tolerance.py of Bridge 0.6.2, which must run under `ft_launcher`.
    """
    if view.values.get("ft.enable_ft_package") is not True:
        return
    if not view.ft_launcher:
        yield refused(
            "ft.enable_ft_package=true works under NVIDIA's ft_launcher, which starts a monitor beside each rank; srun "
            "starts the ranks of this run, and they would wait for monitors that are not there",
            "Leave ft.enable_ft_package out; --keep-going starts the next attempt after a failure.\n"
            "Where the site starts the monitors, its cluster profile says so: ft_launcher = true.",
            where="ft.enable_ft_package",
        )
    elif _lacks(view, "nvidia-resiliency-ext"):
        yield Finding(
            "ft.enable_ft_package=true, and no nvidia-resiliency-ext was found in the image",
            "choose an image that has it",
        )


def _lacks(view: ConfigView, package: str) -> bool:
    return view.packages is not None and "megatron-core" in view.packages and package not in view.packages


RULES = (apex, transformer_engine, fault_tolerance)
"""In the order of their findings."""
