"""`launcher recipes`: which are listed, and how."""

import json
from pathlib import Path

import pytest

from launcher.api.recipes import select
from launcher.cli.main import main
from launcher.discovery.recipe_index import load_index

INDEX = load_index("0.6.2")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    """Standard output of `launcher recipes`."""
    assert main(["recipes", *arguments]) == status
    return capsys.readouterr().out


def test_shipped_ones_come_first_then_bridges_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "llama32_1b", "--bridge", "0.6.2")
    shipped, _, table = out.partition("\n\n")
    assert "llama32_1b_pretrain  " in shipped
    head, *lines = table.splitlines()
    assert head.split() == ["recipe", "model", "task", "GPUs", "hardware", "precision", "parallel"]
    first = next(line for line in lines if "_pretrain_1gpu_" in line)
    assert first.split()[1:6] == ["llama32_1b", "pretrain", "1", "h100", "bf16"]
    assert first.endswith("also llama32_1b_pretrain_config")
    assert "\033" not in out


def test_what_could_not_be_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, "qwen3_next*peft*")
    assert "?" in out
    assert "not known: NotImplementedError: PEFT is not currently supported" in out


def test_filters() -> None:
    def names(pattern: str = "*", **filters: object) -> list[str]:
        return [one.name for one in select(INDEX, pattern, **filters)]  # type: ignore[arg-type]

    assert len(names()) == sum(one.alias_of is None for one in INDEX.recipes.values())
    assert names("llama3_8b_sft_config") == ["llama3_8b_sft_2gpu_h100_bf16_config"]
    some = names("llama*", task="pretrain", gpus=64, hardware="GB200")
    assert some
    assert all("_pretrain_64gpu_gb200_" in name for name in some)
    assert names(gpus=3) == []
    # Recipes before benchmarks, and 8 GPUs before 64.
    of_one = names("llama3_8b_pretrain_*")
    assert of_one[0] == "llama3_8b_pretrain_2gpu_h100_bf16_config"
    assert of_one.index("llama3_8b_pretrain_8gpu_gb200_bf16_config") < of_one.index(
        "llama3_8b_pretrain_32gpu_gb200_bf16_config"
    )


def test_a_shipped_recipe_is_for_any_gpu_and_its_task_is_in_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\nvanilla_gpt_pretrain  " in f"\n{printed(capsys, 'vanilla', '--task', 'pretrain')}"
    assert "\nvanilla_gpt_pretrain  " not in f"\n{printed(capsys, 'vanilla', '--gpus', '1')}"
    assert "\nllama32_1b_lora  " not in f"\n{printed(capsys, 'llama32', '--task', 'peft', '--hardware', 'h100')}"


def test_json_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    answer = json.loads(printed(capsys, "llama32_1b_pretrain", "--json", "--bridge", "0.6.2"))
    assert Path(answer["recipes"][0]["path"]).name == "llama32_1b_pretrain.py"
    (one,) = answer["bridge"]["recipes"]
    assert (answer["bridge"]["version"], one["task"]) == ("0.6.2", "pretrain")
    assert one["values"]["model.seq_length"] == 8192
    assert one["fetches"] == ["meta-llama/Llama-3.2-1B"]


def test_nothing_found_and_a_release_without_an_index(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "zzz", status=1) == ""
    assert main(["recipes", "--bridge", "9.9"]) == 2
    assert "no index of Megatron Bridge 9.9" in capsys.readouterr().err
