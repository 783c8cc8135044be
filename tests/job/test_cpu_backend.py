"""The CPU back end: each patch is needed and fits, it is absent on GPUs, and it refuses what it cannot do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.job import backend
from launcher.job.errors import UserError
from tests.job.ranks import ROOT

# One process for all questions that need Megatron: importing it takes the time.
PROBE = """
import json, sys
sys.path.insert(0, {root!r})
import torch
from launcher.job import cpu
from launcher.job.errors import UserError

found = {{"patches": [], "refusals": {{}}}}
for patch in cpu.patches():
    # Both are asked right before the patch is applied, with all earlier ones in place.
    found["patches"].append([patch.name, patch.fits(), patch.needed()])
    patch.apply()
found["others"] = [[patch.name, patch.fits() and patch.needed()] for patch in cpu.PATCHES if patch not in cpu.patches()]

from pathlib import Path
from launcher.contract.values import parse
from launcher.job.config import overrides, recipe

def make(file, *changes, **arguments):
    config = recipe.load({{"path": f"recipes/{{file}}", "function": "configure"}}, arguments, Path({root!r}))
    return overrides.apply(config, [parse(text) for text in changes])

def refusal(config):
    try:
        cpu.prepare(config)
    except UserError as error:
        return error.message
    return None

found["refusals"]["deepseek"] = refusal(make("deepseek_v2_lite_pretrain.py"))
found["refusals"]["context"] = refusal(make("vanilla_gpt_pretrain.py", "model.context_parallel_size=2"))
found["refusals"]["fsdp"] = refusal(make("vanilla_gpt_pretrain.py", "ddp.use_megatron_fsdp=true"))
found["refusals"]["none"] = refusal(make("vanilla_gpt_pretrain.py"))
fp8 = "mixed_precision=bf16_with_fp8_current_scaling_mixed"
ready = cpu.prepare(make("qwen3_moe_pretrain.py", fp8, "dataset.num_workers=4"))
found["ready"] = {{
    "precision": ready.mixed_precision,
    "backend": ready.dist.distributed_backend,
    "spec": ready.model.transformer_layer_spec.__name__,
    "grouped": ready.model.moe_grouped_gemm,
    "workers": ready.dataset.num_workers,
}}
deepseek = make("deepseek_v2_lite_pretrain.py").model
names = ("num_layers", "hidden_size", "num_moe_experts", "kv_lora_rank",
         "expert_model_parallel_size", "moe_router_topk")
found["deepseek"] = {{name: getattr(deepseek, name) for name in names}}

from launcher.job.model import architectures as models
other = Path("other-model")
other.mkdir()
(other / "config.json").write_text(json.dumps({{**models.model_config("deepseek_v2_lite"), "num_hidden_layers": 4}}))
given = make("deepseek_v2_lite_pretrain.py", hf_path=str(other), moe_token_dispatcher_type="deepep").model
names = ("num_layers", "expert_model_parallel_size", "moe_token_dispatcher_type", "moe_flex_dispatcher_backend",
         "moe_shared_expert_overlap", "recompute_granularity")
found["given"] = {{name: getattr(given, name) for name in names}}

from huggingface_hub import constants
found["hub"] = [constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE]
print("PROBE " + json.dumps(found))
"""

WITH_A_GPU = """
import importlib, json, sys, types
sys.path.insert(0, {root!r})
import torch
torch.cuda.is_available = lambda: True
compile_before, zeros = torch.compile, torch.zeros(1)
from launcher.job import environment, train
from launcher.job.config import paths
from launcher.job.rank import read_rank

# What is loaded after the device was chosen is not the question here, and needs Transformer Engine.
class Config(types.SimpleNamespace):
    env_vars = {{}}
    train = types.SimpleNamespace()
    model = types.SimpleNamespace()
for name, functions in {{
    "config.recipe": {{"load": lambda *a: Config()}},
    "config.overrides": {{"read": lambda records: (), "apply": lambda config, changes: config}},
    "config.check": {{"validate": lambda *a: types.SimpleNamespace(warnings=())}},
    "model.weights": {{"choose": lambda *a, **k: None}},
}}.items():
    module = types.ModuleType(f"launcher.job.{{name}}")
    vars(module).update(functions)
    sys.modules[module.__name__] = module
    package, _, attribute = module.__name__.rpartition(".")
    setattr(importlib.import_module(package), attribute, module)
paths.place_files = paths.stop_on_signal = paths.choose_checkpoint = lambda *a: None

rank = read_rank(json.loads({environment!r}))
request = {{"recipe": {{}}, "arguments": {{}}, "overrides": [], "options": {{"device": {device!r}, "verify": "sizes"}}}}
_, device = train.configure(rank, request, train.Timeline(rank), 0.0)
found = [name for name in sys.modules if name.startswith("launcher.job.cpu")]
print(device, torch.compile is compile_before, found)
"""


def run(code: str, tmp_path: Path) -> str:
    program = tmp_path / "probe.py"
    program.write_text(code)
    # An empty cache, and the hub out of reach: whatever is found comes from the project itself.
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, str(program)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = run(PROBE.format(root=str(ROOT)), tmp_path_factory.mktemp("probe"))
    line = next(line for line in output.splitlines() if line.startswith("PROBE "))
    found: dict[str, Any] = json.loads(line.removeprefix("PROBE "))
    return found


@pytest.mark.megatron
def test_each_patch_still_fits_what_it_changes(probe: dict[str, Any]) -> None:
    assert [name for name, fits, _ in probe["patches"] if not fits] == []
    assert len(probe["patches"]) >= 11


@pytest.mark.megatron
def test_each_patch_is_still_needed(probe: dict[str, Any]) -> None:
    assert [name for name, _, needed in probe["patches"] if not needed] == []
    # Those of other releases alone would change nothing here that fails.
    assert probe["others"] == [["router without Transformer Engine's matrix product", False]]


@pytest.mark.megatron
def test_a_release_that_the_patches_were_not_written_for_gets_those_of_the_one_before() -> None:
    from launcher.job.cpu import patch

    releases = {"0.2.2": "0.3.1", "0.3.1": "0.3.1", "0.5.0": "0.3.1", "0.6.2": "0.6.2", "0.7.0+abc": "0.6.2"}
    assert {release: patch.nearest_release(release) for release in releases} == releases


@pytest.mark.megatron
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("deepseek", "megatron-core 0.19.2's DotProductAttention takes no k_channels"),
        ("context", "model.context_parallel_size=2 does not run on CPU"),
        ("fsdp", "FSDP does not run on CPU"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(probe: dict[str, Any], case: str, words: str) -> None:
    assert words in probe["refusals"][case]


@pytest.mark.megatron
def test_the_rest_is_prepared(probe: dict[str, Any]) -> None:
    assert probe["refusals"]["none"] is None
    expected = {
        "precision": "bf16_mixed",
        "backend": "gloo",
        "spec": "local_layer_spec",
        "grouped": False,
        "workers": 0,
    }
    assert probe["ready"] == expected


@pytest.mark.megatron
def test_the_architecture_of_deepseek_v2_lite_is_built_without_network(probe: dict[str, Any]) -> None:
    assert probe["deepseek"] == {
        "num_layers": 27,
        "hidden_size": 2048,
        "num_moe_experts": 64,
        "kv_lora_rank": 512,
        "expert_model_parallel_size": 8,
        "moe_router_topk": 6,
    }


@pytest.mark.megatron
def test_another_architecture_of_the_family_keeps_the_recipes_parallel_settings(probe: dict[str, Any]) -> None:
    assert probe["given"] == {
        "num_layers": 4,
        "expert_model_parallel_size": 8,
        "moe_token_dispatcher_type": "flex",
        "moe_flex_dispatcher_backend": "deepep",
        "moe_shared_expert_overlap": False,
        "recompute_granularity": "full",
    }


@pytest.mark.megatron
def test_the_users_own_hub_is_back_after_a_recipe_was_built(probe: dict[str, Any]) -> None:
    cache, offline = probe["hub"]
    assert cache.endswith("/hub")
    assert "launcher-hub-" not in cache
    assert offline is False


@pytest.mark.megatron
@pytest.mark.parametrize("device", ["auto", "gpu"])
def test_where_a_gpu_is_used_the_back_end_is_not_even_imported(tmp_path: Path, device: str) -> None:
    from tests.job.ranks import rank_environment

    environment = json.dumps(rank_environment(tmp_path, 0, 1))
    output = run(WITH_A_GPU.format(root=str(ROOT), environment=environment, device=device), tmp_path)
    assert output.splitlines()[-1] == "gpu True []"


def test_the_wish_for_a_device_is_checked() -> None:
    assert backend.select("cpu") == "cpu"
    with pytest.raises(UserError, match="device 'tpu' is not one of auto, cpu, gpu"):
        backend.select("tpu")


@pytest.mark.megatron
def test_a_gpu_that_is_not_there_is_an_error_not_a_slow_run() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"requires GPUs, but torch .* sees none"):
        backend.select("gpu")
    assert backend.select("auto") == "cpu"
