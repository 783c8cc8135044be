"""Every recipe of Megatron Bridge resolves as the index says, or stands in a table with the reason why not.

UPDATE_GOLDEN=1 writes the table anew (unresolved_recipes.json: by release and reason the names).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.discovery.recipe_index import IndexedRecipe, load_index
from launcher.job.model import hub
from tests.job import old_bridge
from tests.job.bridge_process import ROOT
from tests.support.limits import seconds

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(600)]

TABLE = Path(__file__).with_name("unresolved_recipes.json")
NEEDS = "needs files of "
RELEASES = {"0.6.2": sys.executable, "0.3.1": old_bridge.PYTHON}


@pytest.fixture(scope="module", params=[pytest.param("0.6.2"), pytest.param("0.3.1", marks=old_bridge.needed)], ids=str)
def resolved(request: pytest.FixtureRequest) -> tuple[str, dict[str, dict[str, Any]]]:
    """A release, and what came of each of its recipes."""
    done = subprocess.run(
        [RELEASES[request.param], "-m", "tests.job.all_recipes"],
        capture_output=True,
        text=True,
        timeout=seconds(500),
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return request.param, json.loads(done.stdout.splitlines()[-1])


def own(release: str) -> dict[str, IndexedRecipe]:
    recipes = load_index(release).recipes
    return {name: one for name, one in recipes.items() if one.alias_of is None and not one.elsewhere}


def test_what_resolves_is_as_the_index_says(resolved: tuple[str, dict[str, dict[str, Any]]]) -> None:
    release, answers = resolved
    assert set(answers) == set(own(release))
    assert {name: answer["differs"] for name, answer in answers.items() if answer.get("differs")} == {}
    assert sum("differs" in answer for answer in answers.values()) > len(answers) / 2


def test_what_does_not_is_in_the_table_with_the_reason(resolved: tuple[str, dict[str, dict[str, Any]]]) -> None:
    release, answers = resolved
    found: dict[str, list[str]] = {}
    for name, answer in sorted(answers.items()):
        if "why" in answer:
            found.setdefault(answer["why"], []).append(name)
    if os.environ.get("UPDATE_GOLDEN"):
        table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
        TABLE.write_text(json.dumps({**table, release: dict(sorted(found.items()))}, indent=1) + "\n")
    table = json.loads(TABLE.read_text())
    assert found == table[release]


@pytest.mark.parametrize("release", RELEASES)
def test_files_of_the_hub_are_the_reason_only_where_no_architecture_ships(release: str) -> None:
    recipes, shipped = own(release), set(hub.shipped())
    for reason, names in json.loads(TABLE.read_text())[release].items():
        if reason.startswith(NEEDS):
            assert not set(reason.removeprefix(NEEDS).split(", ")) <= shipped, reason
            assert all(reason == NEEDS + ", ".join(recipes[name].fetches) for name in names), reason


@pytest.mark.parametrize("release", RELEASES)
def test_each_family_and_task_is_resolved_or_lacks_files_alone(release: str) -> None:
    """Of no family all recipes of a task are wrong in themselves, but one: its function refuses its task."""
    recipes = own(release)
    table = json.loads(TABLE.read_text())[release]
    wrong = {name for reason, names in table.items() if not reason.startswith(NEEDS) for name in names}
    families: dict[tuple[str, str, str | None], set[str]] = {}
    for name, one in recipes.items():
        families.setdefault((one.package, one.family, one.task), set()).add(name)
    assert [family for family, names in families.items() if names <= wrong] == []
