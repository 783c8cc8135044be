"""Overrides that are right: what the configuration holds afterwards, with the real Megatron Bridge on CPU."""

from typing import Any

import pytest

from tests.job.bridge_process import answers_to_all
from tests.job.right_requests import EFFECTS

pytestmark = pytest.mark.megatron


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each row of EFFECTS is answered, by its name."""
    return answers_to_all(tmp_path_factory)


@pytest.mark.parametrize("name", EFFECTS)
def test_override_arrives_as_the_type_that_the_field_has(name: str, answers: dict[str, dict[str, Any]]) -> None:
    answer, effects = answers[name], EFFECTS[name][1]
    assert answer["ok"], answer["error"]
    for key, shown in effects.items():
        assert answer["read"][key].startswith(shown), f"{key}: {answer['read'][key]}"


def test_what_was_not_named_stays_as_the_recipe_has_it(answers: dict[str, dict[str, Any]]) -> None:
    """Bridge's own way back turns each tuple of the configuration into a list."""
    read = answers["plain values"]["read"]
    assert read["ddp.param_name_patterns_for_fp32_local_accumulation"] == "()"
    assert read["scheduler.lr_decay_style"] == "'cosine'"


def test_validation_leaves_the_configuration_as_it_is(answers: dict[str, dict[str, Any]]) -> None:
    for name in EFFECTS:
        assert answers[name]["after"] == answers[name]["read"], name


def test_environment_of_the_recipe_is_in_the_answer(answers: dict[str, dict[str, Any]]) -> None:
    assert answers["an environment variable"]["env_vars"]["YOURS"] == "x"
