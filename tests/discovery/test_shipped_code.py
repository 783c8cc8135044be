"""What travels with a recipe's file: its imports, tracked files beside it, what --ship names, and nothing else."""

import os
import subprocess
from collections.abc import Iterator
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


def test_outer_directories_stay_inside_the_copy(project: Path) -> None:
    """`..` in --ship must not lead out of code/recipe/, where it could replace the entrypoint."""
    (project / "recipes").mkdir()
    (project / "recipe.py").rename(project / "recipes/recipe.py")
    (project / "entrypoint.py").write_text("print()\n")
    recipe = read_recipe("recipes/recipe.py", project)
    outer = targets(shipped_code(recipe, ("recipes/..", "recipes/../conf"), project))
    assert {"conf/knobs.json", f"{project.name}/entrypoint.py", f"{project.name}/recipes/recipe.py"} <= outer
    assert not any(".." in name or name == "entrypoint.py" for name in outer)
    assert targets(shipped_code(recipe, ("recipes/../recipes",), project)) == {"recipe.py"}


def test_links_to_directories_are_followed_and_those_that_lead_back_are_not(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "a.csv").write_text("1")
    (project / "conf/tables").symlink_to(elsewhere)
    (project / "conf/back").symlink_to(project)
    (project / "conf/itself").symlink_to("itself")
    assert targets(ship(project, "conf")) - IMPORTED == {"conf/knobs.json", "conf/tables/a.csv"}
    git(project, "init", "-q")
    git(project, "add", "recipe.py", "conf")
    tracked = targets(ship(project)) - IMPORTED
    assert tracked == {"conf/knobs.json", "conf/.hidden", "conf/tables/a.csv"}


def test_directories_that_link_to_each_other_are_walked_once(project: Path) -> None:
    """Each pair of links would double the paths, up to the 40 links that the kernel follows."""
    for one, other in (("left", "right"), ("right", "left")):
        (project / "conf" / one).mkdir()
        (project / "conf" / one / "of.txt").write_text(one)
        for number in range(2):
            (project / "conf" / one / f"to-{other}-{number}").symlink_to(project / "conf" / other)
    shipped = targets(ship(project, "conf/left")) - IMPORTED
    assert shipped == {"conf/left/of.txt", "conf/left/to-right-0/of.txt", "conf/left/to-right-1/of.txt"}


def test_submodules_travel_and_what_cannot_is_warned_of(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "d.json").write_text("{}")
    git(other, "init", "-q")
    git(other, "add", ".")
    git(other, "commit", "-q", "-m", "first")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 12345\n"
    (project / "weights.bin").write_text(pointer)
    (project / "two\nlines.txt").write_text("x")
    Path(os.fsdecode(os.fsencode(project) + b"/not-\xff.txt")).write_text("x")
    git(project, "init", "-q")
    for name in ("vendor", "absent"):
        git(project, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), name)
    git(project, "submodule", "deinit", "-q", "-f", "absent")
    git(project, "add", "recipe.py", "weights.bin", "two\nlines.txt", ":(glob)not-*")
    found = ship(project)
    assert targets(found) - IMPORTED == {".gitmodules", "vendor/d.json", "weights.bin", "two\nlines.txt"}
    said = "\n".join(found.warnings)
    assert "the submodule absent is not checked out" in said
    assert "weights.bin: a pointer of Git LFS travels in place of the content" in said
    assert "is not UTF-8" in said
    assert len(found.warnings) == 3


def test_a_pattern_with_a_slash_first_is_of_one_place_and_names_are_not_taken_back(project: Path) -> None:
    (project / "mylib/conf").mkdir()
    (project / "mylib/conf/other.json").write_text("{}")
    git(project, "init", "-q")
    git(project, "add", "recipe.py", "conf/knobs.json", "mylib/conf")
    both = {"conf/knobs.json", "mylib/conf/other.json"}
    for text, left in (("/conf", {"mylib/conf/other.json"}), ("./conf/knobs.json", {"mylib/conf/other.json"})):
        (project / ".launcherignore").write_text(f"{text}\n")
        assert targets(ship(project)) & both == left
    (project / ".launcherignore").write_text("conf/\n")
    assert targets(ship(project)) & both == set()
    (project / ".launcherignore").write_text("mylib/conf/*\n")
    assert targets(ship(project, "mylib")) & both == {"conf/knobs.json"}, "also of a directory that is named"
    (project / ".launcherignore").write_text("*.json\n!conf/knobs.json\n")
    with pytest.raises(RecipeError, match="names cannot be taken back"):
        ship(project)


def test_a_directory_far_too_large_is_refused_before_all_of_it_was_seen(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `--ship /` is: the whole machine would be walked through."""
    seen = []

    def endless(*_arguments: object, **_more: object) -> Iterator[tuple[str, list[str], list[str]]]:
        while True:
            seen.append(1)
            yield str(project / "conf"), [], [f"file{len(seen)}"]

    for number in range(1, 2003):
        (project / f"conf/file{number}").touch()
    monkeypatch.setattr(os, "walk", endless)
    with pytest.raises(RecipeError, match="2001 files of 0 MB would be copied"):
        ship(project, "conf")
    assert len(seen) < 2100
