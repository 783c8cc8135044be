"""Arguments that every recipe accepts: which words are arguments, what is refused, and the sizes that they set."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import OverrideError, RecipeError
from launcher.contract import data_request, recipe_arguments
from launcher.contract.values import Refused
from launcher.discovery.recipe import BridgeRecipe, RecipeFile
from launcher.discovery.recipe_index import load_index, lookup, with_index_info
from launcher.job.config import legacy_kwargs
from launcher.planning import arguments, assignments
from launcher.planning.overrides import check as check_overrides
from launcher.planning.overrides import load_schema

SCHEMA = load_schema()
FILE = RecipeFile(Path("/r/x.py"), "configure", ("data",), ())


def bridge(name: str) -> BridgeRecipe:
    return with_index_info(BridgeRecipe(name), lookup(name, "0.6.2"))


PEFT, PRETRAIN = bridge("llama32_1b_peft_config"), bridge("llama32_1b_pretrain_config")
SFT = bridge("llama32_1b_sft_config")


def test_a_bridge_recipes_own_parameters_are_known_from_the_index() -> None:
    assert (PEFT.parameters, PEFT.task, PRETRAIN.parameters) == (("peft_scheme",), "peft", ())
    assert assignments.split_arguments_and_overrides(("peft_scheme=dora", "peft.dim=16"), PEFT) == (
        {"peft_scheme": "dora"},
        ("peft.dim=16",),
    )
    # Of a release without an index nothing is known, so the job will tell.
    unknown = with_index_info(BridgeRecipe("llama32_1b_peft_config"), lookup("llama32_1b_peft_config", "0.5.0"))
    assert unknown == BridgeRecipe("llama32_1b_peft_config")


def test_what_every_recipe_takes_is_an_argument_unless_it_is_a_section_as_a_whole() -> None:
    given = ("peft=lora", "data=mock", "hf_path=/m", "seq_length=8", "model.seq_length=9", "tokenizer=/t")
    assert assignments.split_arguments_and_overrides(given, SFT) == (
        {"peft": "lora", "data": "mock", "hf_path": "/m", "seq_length": "8", "tokenizer": "/t"},
        ("model.seq_length=9",),
    )
    whole = ("peft=null", "peft={_target_: a.B}", "tokenizer={vocab_size: 5}", "peft=${x}", "+peft.dim=3")
    for text in whole:
        assert assignments.split_arguments_and_overrides((text,), SFT) == ({}, (text,))
    # Keywords of older releases are Bridge's recipes' alone; a program of another kind has nothing of all this.
    assert assignments.split_arguments_and_overrides(("hf_path=/m", "seq_length=8", "peft=dora"), FILE)[0] == {
        "peft": "dora"
    }
    assert assignments.split_arguments_and_overrides(("peft=dora", "data=x"), FILE, common=False) == (
        {"data": "x"},
        ("peft=dora",),
    )


def test_the_same_names_are_known_in_the_job() -> None:
    assert {
        *recipe_arguments.FIELDS,
        *legacy_kwargs._SPECIAL,
        *recipe_arguments.DATA_KEYWORDS,
        "hf_path",
    } == legacy_kwargs.KNOWN


def test_keywords_of_older_releases_tell_the_sizes_that_overrides_leave() -> None:
    given = {"tensor_model_parallel_size": "2", "seq_length": "1024", "layout": "null"}
    values = arguments.check(given, PRETRAIN, None, SCHEMA)
    assert values == {"model.tensor_model_parallel_size": 2, "model.seq_length": 1024, "dataset.seq_length": 1024}
    stronger = check_overrides(["model.seq_length=8"], SCHEMA)
    assert "model.seq_length" not in arguments.sizes(values, stronger)


WRONG = [
    (SFT, {"peft": "qlora"}, "peft=qlora: it takes lora, dora, none", "did you mean lora?"),
    (SFT, {"peft": "LoRA"}, "peft=LoRA: it takes lora, dora, none", "did you mean lora?"),
    (PRETRAIN, {"peft": "lora"}, "llama32_1b_pretrain_config pretrains", "bridge:llama32_1b_sft_config"),
    (PEFT, {"peft": "lora", "peft_scheme": "dora"}, "contradict each other", "Leave one"),
    (SFT, {"seq_length": "long"}, "seq_length=long sets model.seq_length: model.seq_length takes an integer", None),
    (SFT, {"data": ""}, "data= is empty", "PREFIX"),
    (SFT, {"data": "hf:"}, "does not name a data set", "hf:squad"),
    (SFT, {"data": "0.3 /a /b"}, "weights and prefixes do not alternate", "0.3,/data/a,0.7,/data/b"),
    (SFT, {"data": "/a.jsonl,/b.jsonl"}, "only one file of samples", "directory"),
    (SFT, {"data_columns": "a,b,c"}, "it takes PROMPT,COMPLETION", "question,answer"),
    (SFT, {"tokenizer": ""}, "tokenizer= is empty", None),
    (FILE, {"peft": "adapter"}, "peft=adapter: it takes lora, dora, none", "peft.dim=16"),
]


@pytest.mark.parametrize(("recipe", "given", "says", "hint"), WRONG, ids=[row[2] for row in WRONG])
def test_what_is_wrong_is_reported_before_anything_runs(
    recipe: BridgeRecipe | RecipeFile, given: dict[str, str], says: str, hint: str | None
) -> None:
    known = lookup(recipe.name, "0.6.2") if isinstance(recipe, BridgeRecipe) else None
    with pytest.raises(OverrideError) as raised:
        arguments.check(given, recipe, known, SCHEMA)
    assert says in raised.value.message
    assert hint is None or hint in (raised.value.hint or "")


def test_of_two_values_for_one_argument_the_last_counts() -> None:
    given, rest = assignments.split_arguments_and_overrides(("peft=lora", "train.train_iters=3", "peft=dora"), SFT)
    assert (given, rest) == ({"peft": "dora"}, ("train.train_iters=3",))


def test_a_recipes_own_parameter_has_its_own_values() -> None:
    assert arguments.check({"data": ""}, FILE, None, SCHEMA) == {}
    assert arguments.files({"data": "train"}, FILE) == {"data": []}
    assert arguments.files({"data": "/nowhere"}, FILE) == {"data": ["/nowhere"]}


def test_a_name_that_0_3_1_split_in_two_gets_both() -> None:
    with pytest.raises(RecipeError, match="it is llama3_8b_sft_config or llama3_8b_peft_config") as raised:
        load_index("0.6.2").require("llama3_8b_finetune_config")
    assert "Choose one" in (raised.value.hint or "")
    # 0.3.1 has some of these names still.
    assert load_index("0.3.1").require("qwen3_vl_8b_finetune_config").task == "sft"


PARSED = {
    "mock": data_request.DataRequest("mock"),
    "/a/x": data_request.DataRequest("paths", ("/a/x",)),
    "/a/x.bin,/a/y.idx": data_request.DataRequest("paths", ("/a/x", "/a/y")),
    "0.3 /a/x  0.7 /a/y": data_request.DataRequest("paths", ("/a/x", "/a/y"), (0.3, 0.7)),
    "30,/a/x,70,/a/y": data_request.DataRequest("paths", ("/a/x", "/a/y"), (30.0, 70.0)),
    "/a/x.jsonl": data_request.DataRequest("jsonl", ("/a/x.jsonl",)),
    "hf:squad": data_request.DataRequest("hub", ("squad",)),
    "hf:openai/gsm8k:main": data_request.DataRequest("hub", ("openai/gsm8k",), subset="main"),
}


@pytest.mark.parametrize("text", PARSED)
def test_every_way_to_say_data(text: str) -> None:
    assert data_request.parse(text) == PARSED[text]


def test_a_number_where_a_path_belongs() -> None:
    with pytest.raises(Refused, match="do not alternate"):
        data_request.parse("1,2,3,4")


def test_paths_are_those_of_the_directory_that_the_command_was_given_in(tmp_path: Path) -> None:
    for name in ("x.bin", "x.idx", "s.jsonl", "model/config.json", "set/data.arrow"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    given = ("data=0.5,x,0.5,y", "tokenizer=model", "hf_path=model", "peft=lora", "train.train_iters=1")
    assert (
        assignments.make_paths_absolute(given, SFT, tmp_path)
        == (
            f"data=0.5,{tmp_path}/x,0.5,y",  # y is not there: whatever it is, it stays
            f"tokenizer={tmp_path}/model",
            f"hf_path={tmp_path}/model",
            *given[3:],
        )
    )
    assert assignments.make_paths_absolute(("data=hf:set:all",), SFT, tmp_path) == (f"data=hf:{tmp_path}/set:all",)
    assert assignments.make_paths_absolute(("data=hf:squad", "tokenizer=a/b"), SFT, tmp_path) == (
        "data=hf:squad",
        "tokenizer=a/b",
    )
    # A recipe's own parameter is the recipe's business, unless it is a path.
    assert assignments.make_paths_absolute(("data=s.jsonl",), FILE, tmp_path) == ("data=s.jsonl",)
    assert assignments.make_paths_absolute(("data=./s.jsonl",), FILE, tmp_path) == (f"data={tmp_path}/s.jsonl",)


def plan_of(directory: Path, *arguments: str, status: int = 0, cluster: str = "local") -> Any:
    argv = [sys.executable, "-m", "launcher", "plan", *arguments, "--json", "--cluster", cluster]
    root = Path(__file__).resolve().parents[2]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(directory), "PYTHONPATH": str(root)}
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)["plan"] if status == 0 else done.stderr


def test_a_plan_carries_arguments_to_the_job_and_looks_for_their_files(tmp_path: Path) -> None:
    (tmp_path / "here.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    given = (
        f"data=../{tmp_path.name}/here.jsonl",
        "hf_path=/nowhere/model",
        "seq_length=128",
        "peft=lora",
        "peft.dim=8",
    )
    assert "the ranks run on this machine" in plan_of(tmp_path, "bridge:llama32_1b_sft_config", *given, status=2)
    (tmp_path / ".config/launcher/clusters").mkdir(parents=True)
    (tmp_path / ".config/launcher/clusters/far.toml").write_text('extends = "slurm"\ngpus_per_node = 8\n')
    made = plan_of(tmp_path, "bridge:llama32_1b_sft_config", *given, cluster="far")
    assert made["argv"]["arguments"] == {
        "data": f"{tmp_path}/here.jsonl",
        "hf_path": "/nowhere/model",
        "seq_length": "128",
        "peft": "lora",
    }
    assert [each["text"] for each in made["argv"]["overrides"]] == ["peft.dim=8"]
    (warning,) = [one for one in made["warnings"] if "does not exist" in one]
    assert "hf_path: /nowhere/model does not exist on this machine" in warning
    text = plan_of(tmp_path, "bridge:llama32_1b_sft_config", "tensor_model_parallel_size=3", status=2)
    assert "TP" in text or "tensor" in text


def test_described_values_come_from_the_index() -> None:
    assert dataclasses.asdict(SFT) == {"name": "llama32_1b_sft_config", "parameters": (), "task": "sft"}
