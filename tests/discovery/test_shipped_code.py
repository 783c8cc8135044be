"""What travels with a recipe's file: its imports, tracked files beside it, what --ship names, and nothing else."""

import subprocess
from pathlib import Path

import pytest

from launcher._util.errors import RecipeError
from launcher.discovery.recipe import read_recipe
from launcher.discovery.shipped_code import ShippedCode, shipped_code

FILES = {
    "recipe.py": "import json\nfrom mylib.deep.sizes import LAYERS\nimport helper\ndef configure(): ...\n",
    "helper.py": "import math\n",
    "mylib/__init__.py": "",
    "mylib/common.py": "",
    "mylib/deep/__init__.py": "from ..common import *\n",
    "mylib/deep/sizes.py": "from . import more\nLAYERS = 2\n",
    "mylib/deep/more.py": "from mylib import never_there\n",
    "mylib/unused.py": "",
    "conf/knobs.json": "{}",
    "conf/.hidden": "",
    "secrets_local.py": "TOKEN = 1\n",
}
IMPORTED = {
    *("recipe.py", "helper.py", "mylib/__init__.py", "mylib/common.py", "mylib/deep/__init__.py"),
    *("mylib/deep/sizes.py", "mylib/deep/more.py"),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A recipe with packages two levels deep, a data file, and what must not travel."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def ship(project: Path, *named: str, whole: bool = False) -> ShippedCode:
    return shipped_code(read_recipe("recipe.py", project), named, project, whole=whole)


def targets(found: ShippedCode) -> set[str]:
    return {target for target, _source in found.files}


def git(project: Path, *arguments: str) -> None:
    who = ("-c", "user.name=ada", "-c", "user.email=ada@example.com")
    subprocess.run(["git", "-C", str(project), *who, *arguments], check=True, capture_output=True)


def test_without_git_what_is_imported_travels(project: Path) -> None:
    found = ship(project)
    assert targets(found) == IMPORTED
    assert found.git is None
    assert dict(found.files)["mylib/deep/sizes.py"] == str(project / "mylib/deep/sizes.py")
    assert found.bytes == sum(len(FILES[name]) for name in IMPORTED)


def test_named_files_and_directories_travel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "tables"
    elsewhere.mkdir()
    (elsewhere / "a.csv").write_text("1")
    assert targets(ship(project, "conf", str(elsewhere))) - IMPORTED == {"conf/knobs.json", "tables/a.csv"}
    assert targets(ship(project, "conf/knobs.json")) - IMPORTED == {"conf/knobs.json"}
    with pytest.raises(RecipeError, match="there is no file or directory 'confs'"):
        ship(project, "confs")


def test_in_a_project_of_git_tracked_files_travel_as_they_are_now(project: Path) -> None:
    git(project, "init", "-q", "-b", "work")
    git(project, "add", "recipe.py", "helper.py", "mylib", "conf/knobs.json")
    git(project, "commit", "-q", "-m", "first")
    (project / "conf/knobs.json").write_text('{"iters": 3}')
    (project / "mylib/unused.py").unlink()
    found = ship(project)
    assert targets(found) == {*IMPORTED, "conf/knobs.json"}
    assert found.git is not None
    assert (found.git.branch, set(found.git.changed)) == ("work", {"conf/knobs.json", "mylib/unused.py"})
    assert '+{"iters": 3}' in found.git.diff
    (project / ".launcherignore").write_text("# data\nconf\n")
    assert targets(ship(project)) == IMPORTED


def test_the_state_of_git_before_a_commit_unchanged_and_without_a_branch(project: Path) -> None:
    git(project, "init", "-q", "-b", "work")
    git(project, "add", "recipe.py")
    state = ship(project).git
    assert state and (state.commit, state.branch) == (None, "work")
    git(project, "commit", "-q", "-m", "first")
    state = ship(project).git
    assert state and state.commit and len(state.commit) == 40
    assert (state.branch, state.changed, state.diff) == ("work", (), "")
    git(project, "checkout", "-q", "--detach")
    index = (project / ".git/index").stat().st_mtime_ns
    (project / "recipe.py").touch()
    detached = ship(project).git
    assert detached and (detached.commit, detached.branch, detached.changed) == (state.commit, None, ())
    assert (project / ".git/index").stat().st_mtime_ns == index, "a plan writes nothing"


def test_two_files_of_one_name_are_refused(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("elsewhere") / "recipe.py"
    other.write_text("")
    with pytest.raises(RecipeError, match=r"would both travel as 'recipe\.py'"):
        ship(project, str(other))
    assert dict(ship(project, str(project / "helper.py")).files) == dict(ship(project).files)


def test_too_much_is_refused_where_it_was_named_and_said_where_it_is_tracked(project: Path) -> None:
    (project / "conf/large").write_bytes(b"")
    with (project / "conf/large").open("ab") as file:
        file.truncate(60_000_000)
    with pytest.raises(RecipeError, match="60 MB would be copied into each run"):
        ship(project, "conf")
    git(project, "init", "-q")
    git(project, "add", "--intent-to-add", "conf/large")
    found = ship(project)
    assert targets(found) == IMPORTED
    assert "too much to travel" in found.warnings[0]


def test_the_copy_in_a_run_is_taken_whole(project: Path) -> None:
    assert targets(ship(project, whole=True)) == set(FILES)


def test_hidden_tracked_files_are_in_the_copy_as_well(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (project / ".settings").write_text("x")
    git(project, "init", "-q")
    git(project, "add", "-f", ".settings", "conf", "recipe.py")
    first = ship(project)
    copy = tmp_path_factory.mktemp("run")
    for target, source in first.files:
        (copy / target).parent.mkdir(parents=True, exist_ok=True)
        (copy / target).write_bytes(Path(source).read_bytes())
    assert targets(shipped_code(read_recipe("recipe.py", copy), whole=True)) == targets(first)
    assert ".settings" in targets(first)


def test_git_that_refuses_is_not_taken_for_no_git(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(project, "init", "-q")
    (project / ".git/config").write_text("[core\n")
    with pytest.raises(RecipeError, match="git does not say which files"):
        ship(project)
