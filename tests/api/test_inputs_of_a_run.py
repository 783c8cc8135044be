"""What a run reads is looked at from here, for every kind of recipe, before a check or a queue costs anything."""

from pathlib import Path

import pytest

from launcher._util.errors import LauncherError, OverrideError, RequestError
from launcher.api import check_config
from launcher.api.prepare_plan import prepare_plan
from launcher.config.request import Request
from launcher.planning.model import Plan
from tests.backends.running import ROOT

OWN = "def configure(hf_path, data_path=None, log_dir=None):\n    return None\n"
SFT = str(ROOT / "recipes/qwen3_8b_sft.py")


@pytest.fixture(autouse=True)
def _without_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check is never reached: what is asked of these plans is known without one."""
    monkeypatch.setattr(check_config, "stack_is_here", lambda _found: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setenv("HOME", str(tmp_path))


def planned(recipe: str, *assignments: str, cluster: str = "dgx-h100", **request: object) -> Plan:
    asked = {"recipe": recipe, "assignments": assignments, "cluster": cluster, "runtime": "none", **request}
    return prepare_plan(Request.model_validate(asked), "plan", check="if unknown").plan


@pytest.mark.parametrize(
    ("recipe", "assignment", "missing"),
    [
        ("own.py", "hf_path=/no/llama", "hf_path: /no/llama"),
        ("own.py", "data_path=/no/text", "data_path: /no/text"),
        ("own.py", "tokenizer=/no/tokenizer", "tokenizer: /no/tokenizer"),
        (SFT, "data=/no/samples.jsonl", "data: /no/samples.jsonl"),
        (SFT, "hf_path=./llama", "hf_path: ./llama"),
        ("own.py", "tokenizer.tokenizer_model=/no/tokens", "tokenizer.tokenizer_model: /no/tokens"),
        ("own.py", "dataset.blend=[[/no/text],null]", "dataset.blend: /no/text"),
        ("bridge:llama32_1b_pretrain_config", "data_paths=/no/text", "data_paths: /no/text"),
    ],
)
def test_a_path_that_is_not_here_is_said_and_refused_where_the_ranks_are_here(
    recipe: str, assignment: str, missing: str, tmp_path: Path
) -> None:
    needed = [one for one in ("hf_path", "data") if recipe.endswith(".py") and not assignment.startswith(f"{one}=")]
    (tmp_path / "there").mkdir()
    given = [f"{one}={tmp_path}/there" for one in needed if one == "hf_path" or recipe == SFT]
    made = planned(recipe, assignment, *given)
    assert [text for text in made.warnings if text.startswith(f"{missing} does not exist on this machine")]
    with pytest.raises(RequestError, match="does not exist, and the ranks run on this machine"):
        planned(recipe, assignment, *given, cluster="local", gpus_per_node=4)


def test_what_is_here_is_named_by_its_absolute_path(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    for ending in ("bin", "idx"):
        (tmp_path / f"text.{ending}").touch()
    made = planned("own.py", "hf_path=llama", "data_path=./text", "log_dir=llama", cluster="local")
    assert made.argv["arguments"] == {
        "hf_path": f"{tmp_path}/llama",
        "data_path": f"{tmp_path}/text",
        "log_dir": "llama",
    }


def test_a_tokenizer_of_the_hub_is_known_without_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    text = "is not in the Hugging Face cache here"
    name = "bridge:llama3_8b_pretrain_16gpu_h100_bf16_16k_config"
    assert not [one for one in planned(name, nodes=2).warnings if text in one]  # it trains with a null tokenizer
    recipe = "bridge:qwen3_8b_sft_config"
    assert [
        one for one in planned(recipe).warnings if one.startswith("tokenizer.tokenizer_model=Qwen/") and text in one
    ]
    assert not [one for one in planned(recipe, f"tokenizer={tmp_path}").warnings if text in one]


def test_a_checkpoint_is_loaded_only_with_permission(tmp_path: Path) -> None:
    old = tmp_path / "old"
    (old / "iter_0000005").mkdir(parents=True)
    (old / "latest_checkpointed_iteration.txt").write_text("5")
    for named in ("old", str(old), "s3://bucket/old"):
        with pytest.raises(LauncherError, match="a new run loads a checkpoint only when you allow it") as refused:
            planned("own.py", "hf_path=x", f"checkpoint.load={named}")
        assert "--allow-checkpoint-load" in (refused.value.hint or "")
    made = planned("own.py", "hf_path=x", "checkpoint.load=old", allow_checkpoint_load=True)
    assert made.overrides == (f"checkpoint.load={old}",)
    # Nothing is there that could be loaded.
    planned("own.py", "hf_path=x", "checkpoint.load=new")


def test_steps_to_profile_are_compared_with_the_iterations_that_are_known() -> None:
    recipe = str(ROOT / "recipes/vanilla_gpt_pretrain.py")
    made = planned(recipe, profiler="torch")
    assert not [text for text in made.unchecked if "profiled steps" in text]
    with pytest.raises(OverrideError, match=r"the run ends at train\.train_iters="):
        planned(recipe, profiler="torch", profile_steps="999990:999999")
    unknown = planned("own.py", "hf_path=x", profiler="torch")
    assert [text for text in unknown.unchecked if "profiled steps" in text]


def test_a_plan_says_what_a_submission_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters/cpus.toml").write_text('extends = "slurm"\ndevice = "cpu"\ngpus_per_node = 2\n')
    monkeypatch.setenv("LAUNCHER_CLUSTERS", str(tmp_path / "clusters"))
    request = Request.model_validate(
        {"recipe": "own.py", "assignments": ("hf_path=x",), "cluster": "cpus", "nsys": True}
    )
    said = []
    for intent in ("plan", "submit"):
        with pytest.raises(LauncherError) as refused:
            prepare_plan(request, intent, check="if unknown")
        said.append(refused.value.message)
    assert said[0] == said[1] == "CUDA starts the capture of nsys, and this run is on CPU: there would be no report"


def test_a_script_of_megatron_lm_has_no_recipe_to_check() -> None:
    for option, value in (("check_on", "node"), ("check_config", True)):
        with pytest.raises(RequestError, match="checks a recipe, and Megatron-LM's arguments") as refused:
            planned("mlm:gpt", mlm_arguments=("--num-layers", "2"), **{option: value})  # type: ignore[arg-type]
        assert refused.value.where == f"--{option.replace('_', '-')}"
