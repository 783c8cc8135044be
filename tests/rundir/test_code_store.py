"""Files of code/ that the runs of a root share: one copy, whole runs, no run changed through another."""

import dataclasses
import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from launcher._util.errors import DiskError
from launcher.backends.prepare import create, renew
from launcher.contract.process import ProcessIdentity, start_ticks_of
from launcher.discovery.code_files import code_files
from launcher.discovery.recipe import RecipeFile, read_recipe
from launcher.discovery.shipped_code import shipped_code
from launcher.job.errors import TransientError, UserError
from launcher.job.sources import refuse_changed_code
from launcher.planning.model import Plan
from launcher.rundir import RunDirectory
from launcher.rundir.code_store import CodeStore
from launcher.scripts import scripts
from tests.job.ranks import rank_environment
from tests.support import building
from tests.support.limits import seconds
from tests.support.rank_ends import record_of

TEXT = b"LAYERS = 2\n"
SOURCE = TEXT + b"def configure(): ...\n"


def place(root: Path, run: str, content: bytes = TEXT, mode: int = 0o600) -> Path:
    """A file of a run, placed by a launcher of its own."""
    (root / run).mkdir(exist_ok=True)
    CodeStore(root).place(content, root / run / "sizes.py", mode)
    return root / run / "sizes.py"


def copies(root: Path) -> list[Path]:
    return sorted((root / f".code-{os.geteuid()}").iterdir())


def test_equal_files_of_runs_are_one_and_each_run_stays_whole(tmp_path: Path) -> None:
    files = [place(tmp_path, f"run-{number}") for number in range(3)]
    assert len({path.stat().st_ino for path in files}) == 1
    assert files[0].stat().st_nlink == 4
    shutil.rmtree(files[0].parent)
    shutil.rmtree(copies(tmp_path)[0].parent)
    assert [path.read_bytes() for path in files[1:]] == [TEXT, TEXT]
    assert place(tmp_path, "later").read_bytes() == TEXT


def test_files_can_only_be_read_and_permissions_are_not_shared(tmp_path: Path) -> None:
    own, shared = place(tmp_path, "own"), place(tmp_path, "shared", mode=0o644)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (own, shared)] == [0o400, 0o444]
    assert own.stat().st_ino != shared.stat().st_ino


def test_what_replaces_a_file_in_one_run_changes_no_other(tmp_path: Path) -> None:
    one, other = place(tmp_path, "one"), place(tmp_path, "other")
    # As editors and `sed -i` do it.
    (tmp_path / "new").write_bytes(b"LAYERS = 3\n")
    (tmp_path / "new").replace(one)
    assert other.read_bytes() == TEXT
    assert place(tmp_path, "further").read_bytes() == TEXT


def test_a_copy_that_was_changed_in_place_is_not_handed_on(tmp_path: Path) -> None:
    one = place(tmp_path, "one")
    one.chmod(0o600)
    one.write_bytes(b"LAYERS = 9\n")
    one.chmod(0o400)
    further = place(tmp_path, "further")
    assert further.read_bytes() == TEXT
    assert place(tmp_path, "last").stat().st_ino == further.stat().st_ino


@pytest.mark.parametrize("error", [PermissionError(1, "no links here"), OSError(18, "another file system")])
def test_files_are_copied_where_links_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def refuse(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(os, "link", refuse)
    one, other = place(tmp_path, "one"), place(tmp_path, "other")
    assert one.read_bytes() == other.read_bytes() == TEXT
    assert one.stat().st_ino != other.stat().st_ino
    assert stat.S_IMODE(one.stat().st_mode) == 0o400


def test_a_directory_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    (tmp_path / f".code-{os.geteuid()}").mkdir()
    (tmp_path / f".code-{os.geteuid()}").chmod(0o777)
    assert place(tmp_path, "one").stat().st_nlink == 1
    assert copies(tmp_path) == []


def test_unused_copies_are_removed(tmp_path: Path) -> None:
    one = place(tmp_path, "one")
    place(tmp_path, "other", b"x = 1\n")
    shutil.rmtree(one.parent)
    CodeStore(tmp_path).sweep()
    assert len(copies(tmp_path)) == 2, "its launcher may be about to link it"
    CodeStore(tmp_path).sweep(older_than_s=0)
    assert [path.read_bytes() for path in copies(tmp_path)] == [b"x = 1\n"]


def test_only_copies_in_a_directory_of_the_users_own_are_removed(tmp_path: Path) -> None:
    """Below a run root that a group shares, another user may have put a link in its place."""
    for name in ("precious", "root"):
        (tmp_path / name).mkdir()
    (tmp_path / "precious" / "notes.text").write_text("mine")
    (tmp_path / "precious" / ("a" * 64 + "-400")).write_text("as a copy")
    link = tmp_path / "root" / f".code-{os.geteuid()}"
    link.symlink_to(tmp_path / "precious")
    CodeStore(tmp_path / "root").sweep(older_than_s=-1)
    assert len(list((tmp_path / "precious").iterdir())) == 2
    link.unlink()
    (tmp_path / "precious").rename(link)
    CodeStore(tmp_path / "root").sweep(older_than_s=-1)
    assert [path.name for path in link.iterdir()] == ["notes.text"]


def test_a_copy_that_a_killed_launcher_did_not_finish_is_removed(tmp_path: Path) -> None:
    place(tmp_path, "one")
    ended = subprocess.Popen(["true"])
    mine = ProcessIdentity.of_this_process()
    maker = dataclasses.replace(mine, pid=ended.pid, start_ticks=start_ticks_of(ended.pid) or 1)
    ended.wait()
    for each, name in ((maker, "left"), (mine, "mine")):
        (copies(tmp_path)[0].parent / f".{name}.{each.short()}.partial").write_bytes(b"half")
    store = CodeStore(tmp_path)
    (tmp_path / "two").mkdir()
    store.place(b"y = 2\n", tmp_path / "two/sizes.py", 0o600)
    assert store.has_grown
    store.sweep()
    assert [path.name.split(".")[1] for path in copies(tmp_path) if path.name.startswith(".")] == ["mine"]


def test_runs_of_a_root_share_the_code_of_their_plans(tmp_path: Path) -> None:
    (tmp_path / "entrypoint.py").write_text("print()\n")
    made = []
    for number in range(2):
        where = building.host(run_id=f"20260921-120000-abc{number}", directory=tmp_path)
        plan = building.plan(where=where)
        code = (("x.py", f"{tmp_path}/entrypoint.py"),)
        made.append(create(dataclasses.replace(plan, code=code), scripts(plan)))
    first, second = (each.run.path / "code/x.py" for each in made)
    assert first.stat().st_ino == second.stat().st_ino
    for each in reversed(made):
        each.rollback()
    assert not (tmp_path / "runs").exists()


def two_runs(root: Path) -> tuple[RunDirectory, RunDirectory, Plan]:
    """Two runs of one recipe, with the program of ranks; and the plan of the first."""
    (root / "recipe.py").write_bytes(SOURCE)
    recipe = read_recipe("recipe.py", root)
    assert isinstance(recipe, RecipeFile)
    code = code_files(shipped_code(recipe), None, root)
    made, plans = list[RunDirectory](), list[Plan]()
    for number in range(2):
        where = building.host(run_id=f"20260921-120000-abc{number}", directory=root)
        plans.append(dataclasses.replace(building.plan(where=where, recipe=recipe), code=code))
        like = made[0] if made else None
        made.append(create(plans[-1], scripts(plans[-1]), like=like).run)
    return made[0], made[1], plans[0]


def changed(run: RunDirectory) -> str | None:
    """What rank 0 says of the code before it trains."""
    try:
        refuse_changed_code(run)
    except UserError as error:
        return f"{error.message}; {error.hint}"
    return None


def edit(path: Path, text: bytes) -> None:
    """Change a file in place, as its owner can."""
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o600)
    path.write_bytes(text)
    path.chmod(mode)


def test_a_run_whose_code_was_changed_through_another_one_does_not_train(tmp_path: Path) -> None:
    one, other, _plan = two_runs(tmp_path)
    assert (changed(one), changed(other)) == (None, None)
    edit(one.code / "recipe/recipe.py", b"LAYERS = 9\n")
    said = changed(other)
    assert said and "recipe/recipe.py below code/ changed after the run was made" in said
    assert f"--resume {other.path} --allow-change code" in said
    edit(one.code / "recipe/recipe.py", SOURCE)
    assert changed(other) is None
    (other.code / "launcher/job/rank.py").unlink()
    said = changed(other)
    assert said and "launcher/job/rank.py" in said and "--resume" not in said
    assert changed(one) is None
    other.code_sums.chmod(0o600)
    other.code_sums.write_text("{")
    assert "damaged" in str(changed(one))


def test_code_that_cannot_be_read_is_not_said_to_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _other, _plan = two_runs(tmp_path)
    read_bytes = Path.read_bytes

    def stale(path: Path) -> bytes:
        if path.name == "recipe.py":
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", stale)
    with pytest.raises(TransientError, match="cannot be compared with what the run was made with"):
        refuse_changed_code(one)


def test_damaged_sums_are_not_renewed_without_those_of_the_launcher(tmp_path: Path) -> None:
    one, _other, plan = two_runs(tmp_path)
    one.begin_attempt()
    one.code_sums.chmod(0o600)
    one.code_sums.write_text("{")
    with pytest.raises(DiskError, match="the sums of the files of code/ are damaged"):
        renew(one, plan, scripts(plan))
    assert one.code_sums.read_text() == "{"


def test_the_program_of_rank_0_refuses_changed_code(tmp_path: Path) -> None:
    one, other, _plan = two_runs(tmp_path)
    edit(one.code / "recipe/recipe.py", b"LAYERS = 9\n")
    other.begin_attempt()
    environ = rank_environment(other.path, 0, 2, "000", "29500", 1)
    done = subprocess.run(
        [sys.executable, str(other.entrypoint)], env=environ, capture_output=True, text=True, timeout=seconds(60)
    )
    record = record_of(other.attempt_paths("000"), 0)
    assert (done.returncode, record["outcome"], record["cause"]) == (2, "failed", "user"), done.stderr
    assert "recipe/recipe.py below code/ changed" in record["exception"]["message"]


def test_a_change_that_a_resume_was_allowed_is_trained(tmp_path: Path) -> None:
    one, other, plan = two_runs(tmp_path)
    one.begin_attempt()
    edit(one.code / "recipe/recipe.py", b"LAYERS = 9\n")
    (one.code / "launcher/job/rank.py").unlink()
    own = tuple((target, f"{one.code}/{target}") for target, _ in plan.code if target.startswith("recipe/"))
    renew(one, dataclasses.replace(plan, code=(*(each for each in plan.code if each[0] != own[0][0]), *own)), {})
    said = changed(one)
    assert said and "launcher/job/rank.py below code/" in said and "recipe.py" not in said
    assert "recipe/recipe.py" in str(changed(other))
