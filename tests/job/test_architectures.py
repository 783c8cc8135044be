"""The architectures that ship: what they say adds up to the published models, and which copy of several is read."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.job.model import architectures, hub
from tests.job.bridge_process import ROOT

FILES = sorted((ROOT / "configs" / "models").glob("*.json"))

PUBLISHED = {
    "deepseek_v2": 236,
    "deepseek_v2_lite": 15.7,
    "deepseek_v3": 671,
    "llama31_405b": 405,
    "llama31_70b": 70.6,
    "llama31_8b": 8.03,
    "llama32_1b": 1.23,
    "llama32_3b": 3.21,
    "llama3_70b": 70.6,
    "llama3_8b": 8.03,
    "qwen25_1p5b": 1.54,
    "qwen25_500m": 0.49,
    "qwen25_7b": 7.61,
    "qwen3_14b": 14.8,
    "qwen3_1p7b": 1.7,
    "qwen3_235b_a22b": 235,
    "qwen3_30b_a3b": 30.5,
    "qwen3_32b": 32.8,
    "qwen3_4b": 4.0,
    "qwen3_600m": 0.6,
    "qwen3_8b": 8.2,
}
"""Billions of parameters as each model's own page or paper gives them, in its own rounding."""

PROBE = """
import json, logging, sys, warnings
from pathlib import Path
sys.path.insert(0, {root!r})
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
import torch
from launcher.job import cpu
cpu.enable()
from launcher.job.config import notes
from launcher.job.model import architectures as models
from launcher.job.model import hub
from megatron.bridge import AutoBridge
from transformers import AutoConfig, AutoModelForCausalLM

found = {{}}
for name, path in hub.shipped().items():
    with hub.provide_architectures():
        provider = AutoBridge.from_hf_pretrained(name, revision="a" * 40).to_megatron_provider(load_weights=False)
    config = AutoConfig.for_model(**models.model_config(path.stem))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found[path.stem] = {{
        "parameters": sum(one.numel() for one in {{id(one): one for one in model.parameters()}}.values()),
        "shared": provider.share_embeddings_and_output_weights,
        "shape": [provider.num_layers, provider.hidden_size, provider.num_attention_heads, provider.vocab_size],
        "experts": provider.num_moe_experts,
        "rotary_base": provider.rotary_base,
    }}
notes.take()

own = Path("hub")
models.write_cache(own, "Qwen/Qwen3-8B", {{**models.model_config("qwen3_8b"), "num_hidden_layers": 3}}, "b" * 40)
with models.use_cache(own), hub.provide_architectures():
    cached = AutoBridge.from_hf_pretrained("Qwen/Qwen3-8B").to_megatron_provider(load_weights=False)
    with hub.override_model("Qwen/Qwen3-4B"):
        asked = AutoBridge.from_hf_pretrained("Qwen/Qwen3-8B", revision="c" * 40).to_megatron_provider(False)
result = {{"models": found, "cached": cached.num_layers, "asked": asked.hidden_size, "notes": notes.take()}}
print("PROBE " + json.dumps(result))
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Bridge and transformers make of each file, in one process without network or cache."""
    directory = tmp_path_factory.mktemp("hub")
    (directory / "probe.py").write_text(PROBE.format(root=str(ROOT)))
    environ = {**os.environ, "HF_HUB_CACHE": str(directory / "none"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "probe.py"]
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("PROBE "))
    found: dict[str, Any] = json.loads(line.removeprefix("PROBE "))
    return found


def facts(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_the_table_has_every_file() -> None:
    assert {path.stem for path in FILES} == set(PUBLISHED)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_names_its_source_and_its_names_on_the_hub(path: Path) -> None:
    content = facts(path)
    assert content["_hub"] and all(re.fullmatch(r"[\w.-]+/[\w.-]+", name) for name in content["_hub"])
    assert content["_source"].startswith(f"https://huggingface.co/{content['_hub'][0]}/")
    assert not [key for key in architectures.model_config(path.stem) if key.startswith("_")]


def test_names_of_the_hub_lead_to_one_file_each() -> None:
    names = [name for path in FILES for name in facts(path)["_hub"]]
    assert len(names) == len(set(names)) == len(hub.shipped())


@pytest.mark.megatron
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parameters_add_up_to_what_is_published(path: Path, probe: dict[str, Any]) -> None:
    found, content = probe["models"][path.stem], facts(path)
    assert found["parameters"] == content["_parameters"]
    published = PUBLISHED[path.stem]
    decimals = len(str(published).partition(".")[2])
    # "1.23B" and "405B" are cut off where others are rounded.
    assert abs(found["parameters"] / 1e9 - published) < 10**-decimals


@pytest.mark.megatron
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_bridge_builds_that_model(path: Path, probe: dict[str, Any]) -> None:
    found, content = probe["models"][path.stem], facts(path)
    keys = ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size")
    assert found["shape"] == [content[key] for key in keys]
    assert found["experts"] == content.get("n_routed_experts", content.get("num_experts"))
    assert found["rotary_base"] == content["rope_theta"]
    assert found["shared"] == content["tie_word_embeddings"]


@pytest.mark.megatron
def test_a_copy_in_the_cache_wins_and_one_that_is_asked_for_too(probe: dict[str, Any]) -> None:
    assert probe["cached"] == 3
    assert probe["asked"] == facts(ROOT / "configs/models/qwen3_4b.json")["hidden_size"]
    first, second, third = probe["notes"]
    assert re.fullmatch(
        r"architecture of Qwen/Qwen3-8B: from hub/models--Qwen--Qwen3-8B/.*, a copy from the hub", first
    )
    assert second == "architecture: Qwen/Qwen3-4B, in place of Qwen/Qwen3-8B"
    assert third.startswith("architecture of Qwen/Qwen3-4B: from the launcher's qwen3_4b.json")
