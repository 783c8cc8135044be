"""Which function computes the loss, for every model that the installed Bridge has; and one that sees, trained."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from launcher.job.errors import UserError
from launcher.job.model import forward
from tests.job.ranks import make_run, train
from tests.support.warm import warm_python

HERE = Path(__file__).parent

EVERY_PROVIDER = r"""
import importlib, inspect, json, pkgutil
from types import SimpleNamespace
from launcher.job import cpu
from launcher.job.model import forward
cpu.enable()
import megatron.bridge.diffusion.models as diffusion
import megatron.bridge.models as models
from megatron.bridge.data.builders import DirectHFSFTDatasetConfig
from megatron.bridge.training.config import GPTDatasetConfig

def new(cls):
    return cls.__new__(cls)

found = {}
for package in (models, diffusion):
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not info.name.endswith(("_provider", "_bridge")):
            continue
        module = importlib.import_module(info.name)
        for name, cls in vars(module).items():
            if inspect.isclass(cls) and cls.__module__ == info.name and name.endswith("Provider"):
                if not inspect.isabstract(cls):
                    data = (GPTDatasetConfig, DirectHFSFTDatasetConfig)
                    chosen = [forward.name_for(SimpleNamespace(model=new(cls), dataset=new(kind))) for kind in data]
                    found[f"{info.name}:{name}"] = [name, *chosen, any(hasattr(cls, one) or one in
                        getattr(cls, "__dataclass_fields__", ()) for one in ("vision_config", "vision_model_type"))]
steps = {}
for name in forward.STEPS:
    plain = SimpleNamespace(checkpoint=SimpleNamespace(pretrained_checkpoint=None))
    steps[name] = list(inspect.signature(forward._load(name, plain)).parameters)[:3]
print(json.dumps({"providers": found, "steps": steps}))
"""


@pytest.fixture(scope="module")
def bridge() -> dict[str, Any]:
    """What is chosen for each provider with text and with pictures; the first parameters of each step."""
    done = subprocess.run([warm_python(), "-c", EVERY_PROVIDER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.megatron
@pytest.mark.timeout(300)
def test_every_model_of_bridge_gets_a_step_that_there_is(bridge: dict[str, Any]) -> None:
    providers = bridge["providers"]
    assert len(providers) > 40
    assert set(forward.BY_MODEL) <= {name for name, *_ in providers.values()}
    for place, (name, text, pictures, sees) in providers.items():
        assert text == forward.BY_MODEL.get(name, "gpt"), place
        assert (pictures != "gpt") == (sees or name in forward.BY_MODEL), place
    # Two classes have this name: each gets its own.
    omni = {
        place: text for place, (_, text, *_) in providers.items() if "nemotron_omni" in place or "nemotron_vl" in place
    }
    assert sorted(omni.values()) == ["llava", "llava", "nemotron_omni"]
    for name, first in bridge["steps"].items():
        assert first == ["state", "data_iterator", "model"], name


def configuration(model: str, data: str) -> Any:
    return SimpleNamespace(model=type(model, (), {})(), dataset=type(data, (), {})())


def request(path: str = "recipe/mine.py", **arguments: str) -> dict[str, Any]:
    return {"recipe": {"path": path, "function": "configure"}, "arguments": arguments}


def test_packed_samples_of_energon_are_read_by_the_general_step() -> None:
    assert forward.name_for(configuration("Qwen3VLModelProvider", "EnergonDatasetConfig")) == "vlm"
    assert forward.name_for(configuration("Qwen3VLModelProvider", "MockVLMSFTDatasetConfig")) == "qwen3_vl"


def test_the_user_comes_before_the_recipe_and_the_recipe_before_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = ModuleType("mine"), ModuleType("theirs")
    vars(mine)["forward_step"] = vars(theirs)["forward_step"] = None
    vars(mine)["forward_step"], vars(theirs)["other"] = (lambda: 1), (lambda: 2)
    monkeypatch.setitem(sys.modules, "mine", mine)
    monkeypatch.setitem(sys.modules, "theirs", theirs)
    text = configuration("GPTModelProvider", "GPTDatasetConfig")
    assert forward.choose(text, request())() == 1
    assert forward.choose(text, request(forward_step="theirs:other"))() == 2


def test_a_step_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="there is no forward step 'vml'; known steps: gpt, vlm, ") as raised:
        forward.check_name("vml")
    assert raised.value.hint == "did you mean vlm?"
    with pytest.raises(UserError, match="nowhere:step cannot be loaded: No module named 'nowhere'"):
        forward.choose(configuration("GPTModelProvider", "GPTDatasetConfig"), request(forward_step="nowhere:step"))


@pytest.mark.megatron
@pytest.mark.timeout(300)
def test_a_vision_language_model_learns_what_only_the_picture_says(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "seeing.py", files={"seeing.py": (HERE / "seeing.py").read_text()})
    train(run, ranks=1)
    losses = run.losses()
    assert losses[1] > math.log(2)
    assert losses[15] < math.log(2) / 3
    assert "note: forward step: vlm, for Qwen25VLModelProvider" in run.log(0)
