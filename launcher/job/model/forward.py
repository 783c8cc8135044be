"""The forward step, which computes the loss: chosen by model and data, unless the user or the recipe names one.

The table lists the model providers of Bridge 0.6.2 whose batches are not plain text. The pairs come from NVIDIA's
scripts/training/recipe_metadata.py, which has them by names of recipes. A provider outside the table gets the step for
text or, where its data set consists of images, the general step for vision-language models.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...contract.values import nearest
from ..config import notes
from ..errors import UserError

_MODELS, _TRAINING = "megatron.bridge.models", "megatron.bridge.training"

STEPS = {
    "gpt": f"{_TRAINING}.gpt_step:forward_step",
    "vlm": f"{_TRAINING}.vlm_step:forward_step",
    "llava": f"{_TRAINING}.llava_step:forward_step",
    "audio_lm": f"{_TRAINING}.audio_lm_step:forward_step",
    "nemotron_omni": f"{_TRAINING}.nemotron_omni_step:forward_step",
    "qwen3_vl": f"{_MODELS}.qwen_vl.qwen3_vl_step:forward_step",
    "qwen3_omni": f"{_MODELS}.qwen_omni.qwen3_omni_step:forward_step",
    "step37_flickr8k": f"{_MODELS}.stepfun.step37_flickr8k_step:forward_step",
    "dsv4": f"{_MODELS}.deepseek.deepseek_v4_step:forward_step",
    "dgpt": "megatron.bridge.diffusion.models.common.dgpt_step:DGPTStep",
    "flux": "megatron.bridge.diffusion.models.flux.flux_step:FluxForwardStep",
    "wan": "megatron.bridge.diffusion.models.wan.wan_step:WanForwardStep",
}
"""MODULE:NAME of each step; the instances of a class are steps."""

BY_MODEL = {
    "Gemma3VLModelProvider": "vlm",
    "Gemma4VLModelProvider": "vlm",
    "Gemma4DenseVLProvider": "vlm",
    "GLM45VModelProvider": "vlm",
    "KimiK25VLModelProvider": "vlm",
    "Ministral3ModelProvider": "vlm",
    "Qwen25VLModelProvider": "vlm",
    "Qwen3VLModelProvider": "qwen3_vl",
    "Qwen3VLMoEModelProvider": "qwen3_vl",
    "Qwen35VLModelProvider": "qwen3_vl",
    "Qwen35VLMoEModelProvider": "qwen3_vl",
    "Qwen3OmniModelProvider": "qwen3_omni",
    "Qwen2AudioModelProvider": "audio_lm",
    "NemotronOmniModelProvider": "nemotron_omni",
    "NemotronVLModelProvider": "llava",
    "Step37ModelProvider": "step37_flickr8k",
    "NemotronLabsDiffusionModelProvider": "dgpt",
    "FluxProvider": "flux",
    "WanModelProvider": "wan",
}
"""Step for the class of a model's configuration, or for its nearest base class."""

_IMAGE_DATA = ("DirectHFSFTDatasetConfig", "MockVLMSFTDatasetConfig", "EnergonDatasetConfig")


def choose(config: Any, request: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the step that trains `config`; `request` is the request of argv.json. Raises UserError if it is missing.

    The first of: the argument `forward_step` (a name of STEPS, or MODULE:NAME), a function `forward_step` in the
    recipe's file, the table.
    """
    asked = request["arguments"].get("forward_step")
    if asked:
        return _load(asked, config)
    own: Callable[..., Any] | None = _of_recipe(request["recipe"])
    if own is not None:
        notes.add("the recipe's own forward_step computes the loss")
        return own
    name = name_for(config)
    if name != "gpt":
        notes.add(f"forward step: {name}, for {type(config.model).__name__}")
    return _load(name, config)


def name_for(config: Any) -> str:
    """Return the name in STEPS for a configuration, by its model's class, then by its data set's."""
    classes = [cls.__name__ for cls in type(config.model).__mro__]
    data = {cls.__name__ for cls in type(config.dataset).__mro__}
    found = next((BY_MODEL[name] for name in classes if name in BY_MODEL), None)
    if found == "qwen3_vl" and "EnergonDatasetConfig" in data:
        return "vlm"  # its samples come packed, with metadata that only this step reads
    return found or ("vlm" if data.intersection(_IMAGE_DATA) and _takes_images(config.model) else "gpt")


def _takes_images(model: Any) -> bool:
    """Return whether a model's configuration has a part for images; such a data set may also hold text alone."""
    known = {*dir(model), *getattr(model, "__dataclass_fields__", ())}
    return bool(known & {"vision_config", "vision_model_type"})


def _of_recipe(recipe: Mapping[str, str]) -> Any:
    """Return the recipe's own step; its module was imported under its file's name (recipe.py)."""
    module = sys.modules.get(Path(recipe["path"]).stem.replace(".", "_")) if "path" in recipe else None
    return getattr(module, "forward_step", None)


def check_name(name: str) -> None:
    """Refuse a name that is neither in STEPS nor MODULE:NAME. Raises UserError."""
    if name in STEPS or ":" in name:
        return
    near = nearest(name, STEPS)
    raise UserError(
        f"there is no forward step {name!r}; known steps: {', '.join(STEPS)}; MODULE:NAME names any other",
        where=f"forward_step={name}",
        hint=f"did you mean {near[0]}?" if near else None,
    )


def _load(name: str, config: Any) -> Callable[..., Any]:
    check_name(name)
    location = STEPS.get(name, name)
    module, _, attribute = location.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the forward step {location} cannot be loaded: {error}", where=f"forward_step={name}"
        ) from error
    if inspect.isclass(found):
        options = {"mode": "finetune"} if name == "wan" and config.checkpoint.pretrained_checkpoint else {}
        found = found(**options)
    made: Callable[..., Any] = found
    return made
