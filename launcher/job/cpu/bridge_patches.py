"""Patches of megatron-bridge 0.3.1 and 0.6.2: imports that only a GPU image can serve, and the demand for CUDA."""

import functools
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import inspect
import sys
import types
from collections.abc import Sequence
from typing import Any

from . import assumed_te
from .patch import Patch

OF = "megatron-bridge"
LORA = ("megatron.bridge.peft.lora_layers", "megatron.bridge.peft.lora")
TE_IMPORT = b"import transformer_engine.pytorch as te\n"


class Absent(type):
    """Stand-in for a module of Transformer Engine: every name in it is a class without instances."""

    def __getattr__(cls, name: str) -> "Absent":
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(name, (), {})


class _LoraLoader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> types.CodeType:  # noqa: ARG002 the name is the loader's own
        # Not through the byte code cache, where a process with a GPU would find this code.
        stand_in = f"from {__name__} import Absent; te = Absent('te', (), {{}})\n".encode()
        source = self.get_data(self.path).replace(TE_IMPORT, stand_in)
        code: types.CodeType = compile(source, self.path, "exec", dont_inherit=True)
        return code


class _LoraFinder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None) -> Any:
        if fullname not in LORA:
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _LoraLoader(fullname, spec.origin)  # the release decides which of the two files imports it
        return spec


def _lora_without_te() -> None:
    sys.meta_path.insert(0, _LoraFinder)


def _lora_source() -> bytes:
    # Import only the namespace: the code of the parent packages must not run yet.
    import megatron

    root = next(iter(megatron.__path__))
    with open(f"{root}/bridge/peft/lora_layers.py", "rb") as file:  # noqa: PTH123 one read, no path arithmetic
        return file.read()


class CallWrapper:
    """Stand-in for nvidia_resiliency_ext.inprocess.CallWrapper, which pretrain() names in an annotation."""


def _no_resiliency() -> None:
    package = types.ModuleType("nvidia_resiliency_ext")
    inprocess = types.ModuleType("nvidia_resiliency_ext.inprocess")
    # Below any version that megatron-core would use, so that it uses its own checkpoint writers.
    package.__version__ = "0"  # type: ignore[attr-defined]
    package.inprocess = inprocess  # type: ignore[attr-defined]
    inprocess.CallWrapper = CallWrapper  # type: ignore[attr-defined]
    sys.modules.update({package.__name__: package, inprocess.__name__: inprocess})


def _resiliency_unusable() -> bool:
    """Return whether the package is missing or too old."""
    try:
        version = importlib.metadata.version("nvidia-resiliency-ext")
    except ImportError:
        return True
    least = (0, 4) if importlib.metadata.version("megatron-core").startswith("0.16.") else (0, 6)
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < least


def _no_cuda_needed() -> None:
    from megatron.bridge.training import initialize, setup

    setup.initialize_megatron = functools.partial(initialize.initialize_megatron, allow_no_cuda=True)


def _initialize_fits() -> bool:
    from megatron.bridge.training import initialize, setup

    takes = "allow_no_cuda" in inspect.signature(initialize.initialize_megatron).parameters
    return takes and callable(setup.initialize_megatron)


def _helpers_are_built() -> None:
    from megatron.bridge.training import initialize

    initialize.compile_helpers = lambda: None


def _helpers_fit() -> bool:
    from megatron.bridge.training import initialize
    from megatron.core.datasets import helpers_cpp

    return helpers_cpp is not None and callable(initialize.compile_helpers)


def _makefile_missing() -> bool:
    import megatron.core.datasets

    directory = next(iter(megatron.core.datasets.__path__))
    return not importlib.import_module("pathlib").Path(directory, "Makefile").exists()


def _adapters_on_local_layers() -> None:
    from megatron.bridge.peft import utils

    utils.HAVE_TE = False


def _adapters_fit() -> bool:
    from megatron.bridge.peft import utils

    return isinstance(utils.HAVE_TE, bool)


def _stand_ins_taken_for_te() -> bool:
    from megatron.bridge.peft import utils

    return utils.HAVE_TE and assumed_te.is_absent()


def _gradients_fused() -> None:
    # Now, not earlier: megatron-core has already looked for it and found none. On CPU no layer may use it.
    name = "fused_weight_gradient_mlp_cuda"
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)


def _no_fused_gradients() -> bool:
    from megatron.bridge.utils import fusions

    return not fusions.can_enable_gradient_accumulation_fusion()


def _validate_for_gpus() -> None:
    from megatron.bridge.training import config

    config.runtime_config_update = assumed_te.wrap(config.runtime_config_update)


def _validation_fits() -> bool:
    from megatron.bridge.training import config

    return list(inspect.signature(config.runtime_config_update).parameters) == ["cfg"]


BEFORE_IMPORT = (
    Patch(
        "LoRA without Transformer Engine",
        OF,
        "peft/lora_layers.py imports transformer_engine unconditionally, and everything imports peft",
        _lora_without_te,
        fits=lambda: TE_IMPORT in _lora_source(),
        needed=lambda: importlib.util.find_spec("transformer_engine") is None,
    ),
    Patch(
        "no nvidia-resiliency-ext",
        "megatron-bridge, megatron-core",
        "pretrain.py needs its CallWrapper for an annotation, megatron-core 0.19 its version 0.6, whose wheel needs a "
        "newer glibc than many machines without a GPU have; with 0.4.1 megatron-core fails on import",
        _no_resiliency,
        fits=lambda: True,
        needed=_resiliency_unusable,
    ),
)

PATCHES = (
    Patch(
        "no CUDA needed",
        OF,
        "setup() calls initialize_megatron() without its allow_no_cuda",
        _no_cuda_needed,
        fits=_initialize_fits,
        needed=lambda: (
            "allow_no_cuda" not in inspect.getsource(importlib.import_module("megatron.bridge.training.setup").setup)
        ),
    ),
    Patch(
        "dataset helpers are already built",
        "megatron-core",
        "Bridge runs `make` in megatron/core/datasets; the wheel has the compiled helper there, and no Makefile",
        _helpers_are_built,
        fits=_helpers_fit,
        needed=_makefile_missing,
    ),
    Patch(
        "gradient accumulation fusion is assumed on GPUs",
        OF,
        "a model's default depends on what is installed where it is built; fields that need it would be refused. "
        "configuration.py turns it off where the job itself computes on CPU",
        _gradients_fused,
        fits=lambda: "fused_weight_gradient_mlp_cuda" not in sys.modules,
        needed=_no_fused_gradients,
    ),
    Patch(
        "a configuration for GPUs is validated as on a machine with GPUs",
        "megatron-bridge, megatron-core",
        "runtime_config_update() refuses fused kernels that are not installed on this machine",
        _validate_for_gpus,
        fits=_validation_fits,
        needed=assumed_te.is_absent,
    ),
    Patch(
        "adapters on local layers",
        "megatron-bridge, megatron-core",
        "peft/utils.py treats megatron-core's stand-ins for Transformer Engine's layers as types",
        _adapters_on_local_layers,
        fits=_adapters_fit,
        needed=_stand_ins_taken_for_te,
    ),
)
