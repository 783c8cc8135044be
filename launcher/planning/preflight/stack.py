"""Rules about packages in the image, and programs around the ranks, that the configuration needs.

Of packages they warn only, because software that was built into an image by hand may leave no metadata. They yield
nothing of them if no metadata of megatron-core was found.
"""

from collections.abc import Iterator

from launcher.planning import dispatcher
from launcher.planning.preflight.findings import ConfigView, Finding, refused


def apex(view: ConfigView) -> Iterator[Finding]:
    """Refuse gradient accumulation fusion for an interpreter without APEX's kernel; warn for an image without APEX.

    megatron-core's own linear layers, such as the output layer, accumulate gradients with a kernel of APEX. Source:
    tensor_parallel/layers.py of megatron-core 0.19.2; Bridge 0.6.2's recipes check only for Transformer Engine.
    """
    if not view.flag("model.gradient_accumulation_fusion"):
        return
    if view.accumulation_kernel is False:
        yield refused(
            "model.gradient_accumulation_fusion=true needs APEX with its CUDA extensions, and the interpreter of the "
            "ranks has none",
            "Set model.gradient_accumulation_fusion=false, or use an image or interpreter that has APEX.",
            where="model.gradient_accumulation_fusion",
        )
    elif _lacks(view, "apex"):
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


_BACKENDS = {"deepep": ("deepep", "uccl"), "flex": ("deepep", "uccl"), "hybridep": ("hybridep",)}
"""For each dispatcher what an image may have for it; UCCL is a `deep_ep` of its own, and `flex` alone means DeepEP."""


def expert_dispatcher(view: ConfigView) -> Iterator[Finding]:
    """Warn if experts exchange tokens through a library that the image's manifest does not list.

    Source: megatron-core 0.19.2, core/transformer/moe/fused_a2a.py, which raises in the first step where the package
    cannot be imported.
    """
    name = dispatcher.name_of(view.values)
    ranks = view.size("expert_model_parallel_size")
    needed = _BACKENDS.get(name or "")
    if needed is None or ranks == 1 or not view.gpus or not _is_described(view):
        return
    if not set(needed) & set(view.moe_backends):
        title = {"hybridep": "HybridEP (DeepEP's branch hybrid-ep)"}.get(name or "", "DeepEP")
        yield Finding(
            f"the configuration moves tokens between experts by {title}, and the image's manifest lists "
            f"{', '.join(view.moe_backends) or 'no such library'}: the ranks would fail in their first step",
            "use model.moe_token_dispatcher_type=alltoall (NCCL itself), or an image that has it; an image declares "
            "what was built into it by hand in /etc/launcher/versions.json (moe_backends)",
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
    return _is_described(view) and package not in (view.packages or {})


def _is_described(view: ConfigView) -> bool:
    """Return whether the image's packages are known: those of an image without any metadata are not."""
    return view.packages is not None and "megatron-core" in view.packages


RULES = (apex, transformer_engine, expert_dispatcher, fault_tolerance)
"""In the order of their findings."""
