"""Variables of the runs: whose value wins, which are secrets, which refer to others."""

import os
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import ConfigError
from launcher.cloudai.environment import Environment, environment_of, in_shell
from launcher.cloudai.records import definition
from tests.cloudai.files import ARGS, workspace

CANARY = "hf_canary0123456789abcdefghijklmnop"


def environment(directory: Path, shell: dict[str, str] | None = None, **changes: Any) -> Environment:
    system = changes.pop("system", None)
    found = workspace(directory, test=changes, system=system)
    return environment_of(found.scenario.tests[0], found.system, shell or {})


def test_the_tests_own_value_wins_over_the_systems(tmp_path: Path) -> None:
    found = environment(
        tmp_path, extra_env_vars={"A": "test"}, system={"global_env_vars": {"A": "system", "B": 1, "C": True}}
    )
    assert found.values == {"A": "test", "B": "1", "C": "true"}
    assert found.entries == ("A=test", "B=1", "C=true")


def test_values_that_refer_to_others_are_marked_one_by_one(tmp_path: Path) -> None:
    values = {"A": "/a:${PATH}", "B": 'it\'s "$HOME"', "C": "$5 and 100%", "D": "$(date) `date`", "E": "\\$HOME"}
    found = environment(tmp_path, extra_env_vars=values)
    assert found.expand == ("A", "B")
    assert [note.field for note in found.notes if "stays text" in note.text] == ["extra_env_vars.D"]


def test_variables_of_enroots_hooks_are_set_outside_too(tmp_path: Path) -> None:
    found = environment(tmp_path, extra_env_vars={"MELLANOX_VISIBLE_DEVICES": "0,3", "A": "1"})
    assert found.host == {"MELLANOX_VISIBLE_DEVICES": "0,3"}
    assert found.values["MELLANOX_VISIBLE_DEVICES"] == "0,3"


@pytest.mark.parametrize("name", ["MY_TOKEN", "DB_PASSWORD", "WANDB_API_KEY"])
def test_a_variable_that_looks_like_a_secret_is_passed_on_by_name(name: str, tmp_path: Path) -> None:
    found = environment(tmp_path, extra_env_vars={name: "canary", "URL": "https://a:b@c/d"})
    assert found.secrets == {name: "canary", "URL": "https://a:b@c/d"}
    assert found.entries == tuple(sorted((name, "URL")))
    assert not [note for note in found.notes if "canary" in note.text]
    assert "canary" not in repr(found)


def test_the_token_is_the_files_and_else_the_shells(tmp_path: Path) -> None:
    shell = {"HF_TOKEN": "  of-the-shell \n"}
    assert environment(tmp_path, shell).secrets == {"HF_TOKEN": "of-the-shell"}
    found = environment(tmp_path, shell, cmd_args={**ARGS, "hf_token": f" {CANARY} "})
    assert found.secrets == {"HF_TOKEN": CANARY}
    assert [note.field for note in found.notes if "is a secret in a file" in note.text] == ["cmd_args.hf_token"]
    # Without any, a run may still read what is here.
    found = environment(tmp_path)
    assert found.secrets == {}
    assert [note.level for note in found.notes] == ["info"]


def test_a_key_for_weights_and_biases(tmp_path: Path) -> None:
    assert environment(tmp_path, cmd_args={**ARGS, "wandb_key": "canary"}).secrets == {"WANDB_API_KEY": "canary"}
    assert environment(tmp_path, {"WANDB_API_KEY": "own"}).secrets == {"WANDB_API_KEY": "own"}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("RANK", "is set for each rank"), ("SLURM_JOB_ID", "is set for each rank"), ("A-B", "not a name of a variable")],
)
def test_names_that_cannot_be_given(name: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence) as raised:
        environment(tmp_path, extra_env_vars={name: "1"})
    assert str(raised.value.where).startswith(f"{tmp_path}/tests/t.toml:")


def test_secrets_are_in_the_shell_for_a_submission_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "before")
    monkeypatch.delenv("OTHER_TOKEN", raising=False)
    with in_shell({"HF_TOKEN": "x", "OTHER_TOKEN": "y"}):
        assert (os.environ["HF_TOKEN"], os.environ["OTHER_TOKEN"]) == ("x", "y")
    assert os.environ["HF_TOKEN"] == "before"
    assert "OTHER_TOKEN" not in os.environ


def test_records_have_no_secret(tmp_path: Path) -> None:
    args = {**ARGS, "hf_token": CANARY, "wandb_key": "canary-key"}
    found = workspace(tmp_path, test={"cmd_args": args, "extra_env_vars": {"MY_TOKEN": "canary-variable"}})
    text = str(definition(found.scenario.tests[0].test))
    assert "canary" not in text
    assert "(not shown)" in text
