"""What another user has put into a run root or a store is never taken. Needs root, to be several users."""

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher._util.errors import RequestError
from launcher.backends.prepare import create
from launcher.backends.task import submit_task
from launcher.images.store.building import start_building
from launcher.images.store.store import Store
from launcher.planning.model import Plan
from launcher.rundir.once import KeyFile
from launcher.scripts import scripts
from tests.backends.running import TOY, user_of
from tests.images.stores import MANIFEST
from tests.support.building import plan

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
OTHER, THIRD = 65534, 12345
COMMON = (
    "small.py",
    "--gpus-per-node=1",
    f"--entrypoint={TOY}",
    "--no-check-config",
    "toy.iters=2",
    "toy.save_every=1",
)


def plan_in(directory: Path, *, shared: bool = False, shared_run_root: bool = False) -> Plan:
    recipe = directory / "small.py"
    recipe.write_text("def configure(): pass\n")
    return dataclasses.replace(
        plan("batch"),
        run_dir=str(directory / "runs/small/20260921-120000-abcd"),
        code=(("recipe/small.py", str(recipe)),),
        shared=shared,
        shared_run_root=shared_run_root,
    )


def belongs_to(uid: int, path: Path, mode: int = 0o777) -> Path:
    """A directory of this user's."""
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, uid, -1)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("where", ["runs", "runs/small"])
@pytest.mark.parametrize("link", [False, True])
@pytest.mark.fault("another user's directory")
def test_a_run_is_not_made_where_another_user_could_replace_it(tmp_path: Path, where: str, link: bool) -> None:
    place = tmp_path / where
    if link:
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(belongs_to(0, tmp_path / "elsewhere"))
        os.lchown(place, OTHER, OTHER)
    else:
        belongs_to(OTHER, place)
    made = plan_in(tmp_path)
    with pytest.raises(RequestError, match="of another user"):
        create(made, scripts(made))
    assert not [path for path in tmp_path.rglob("*") if path.name in ("plan.json", "step.sh") or "partial" in path.name]
    if not link:
        place.rmdir()
        create(made, scripts(made))


def test_a_group_shares_a_run_root_that_the_profile_declares(tmp_path: Path) -> None:
    root = belongs_to(OTHER, tmp_path / "runs", 0o2775)
    made = plan_in(tmp_path)
    with pytest.raises(RequestError, match="of another user"):
        create(made, scripts(made))
    shared = dataclasses.replace(made, shared_run_root=True)
    run = create(shared, scripts(shared)).run
    assert stat.S_IMODE(run.path.parent.stat().st_mode) == 0o2775, "others of the group may have runs of this name"
    assert stat.S_IMODE(run.path.stat().st_mode) & 0o077 == 0, "the run is its maker's"
    # Neither a directory that is not setgid, nor one of another group.
    for mode, group in ((0o775, 0), (0o2775, THIRD)):
        os.chown(root, OTHER, group)
        root.chmod(mode)
        with pytest.raises(RequestError, match="of another user"):
            create(shared, scripts(shared))


def test_another_users_run_is_not_resumed(tmp_path: Path) -> None:
    user = user_of(tmp_path)
    user.run("run", *COMMON)
    (run,) = user.runs()
    os.chown(run, OTHER, OTHER)
    refused = user.run("run", "--resume", str(run), "toy.iters=4", status=2)
    assert "of another user" in refused.stderr
    os.chown(run, 0, 0)
    user.run("run", "--resume", str(run), "toy.iters=4")


@pytest.mark.parametrize("umask", [0o000, 0o077])
@pytest.mark.parametrize("shared", [False, True])
def test_the_files_of_a_run_have_their_permissions_whatever_the_umask(
    tmp_path: Path, umask: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(umask)
    try:
        # The umask is the process's: a program with threads must not see it change.
        monkeypatch.setattr(os, "umask", lambda _mode: pytest.fail("the umask is changed"))
        run = create(made := plan_in(tmp_path, shared=shared), scripts(made)).run
        run.journal.write("submit_intent", token=made.token)
    finally:
        monkeypatch.undo()
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (run.path, *run.path.rglob("*"))}
    file, directory = (0o644, 0o755) if shared else (0o600, 0o700)
    programs = {"sbatch.sh", "step.sh"}
    code = {path.name for path in (run.path / "code").rglob("*") if path.is_file()}
    assert {modes[name] for name in code} == {file & 0o444}
    others = {name: mode for name, mode in modes.items() if mode != file and name not in code}
    assert others == dict.fromkeys((run.path.name, "code", "recipe", *programs), directory)
    assert {"journal.jsonl", "sbatch.log", "plan.json"} <= set(modes)


@pytest.mark.parametrize("name", [".locks", ".partial", "sha256"])
def test_a_store_does_not_take_directories_of_another_user(tmp_path: Path, name: str) -> None:
    store = Store(belongs_to(0, tmp_path / "store"))
    belongs_to(OTHER, store.root / name)

    def build() -> None:
        with start_building(store, "key") as building:
            (building.workspace / "x.sqsh").write_bytes(b"x")
            building.add(building.workspace / "x.sqsh", MANIFEST, ["x"])

    with pytest.raises(RequestError, match="of another user"):
        build()
    # A group's store: setgid.
    store.root.chmod(0o2775)
    (store.root / name).chmod(0o2775)
    build()


def test_a_task_is_not_put_where_another_user_could_replace_it(tmp_path: Path) -> None:
    tasks = belongs_to(OTHER, tmp_path / "store/tasks")
    with pytest.raises(RequestError, match="of another user"):
        submit_task(len, ((),), folder=tasks / "one", parameters={})
    assert not list(tasks.iterdir())


@pytest.fixture
def seen_by_all() -> Iterator[Path]:
    """A directory that every user can enter; pytest's own are its user's."""
    directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="owners-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def test_keys_of_once_are_the_users_own(seen_by_all: Path) -> None:
    tmp_path = seen_by_all
    belongs_to(OTHER, tmp_path / ".once-0")
    with pytest.raises(RequestError, match="of another user"):
        KeyFile.of(tmp_path, "key").make_directory()
    # Another user's keys are elsewhere.
    code = (
        "import sys\nfrom pathlib import Path\nfrom launcher.rundir.once import KeyFile\n"
        "file = KeyFile.of(Path(sys.argv[1]), 'key')\nfile.make_directory()\nprint(file.path.parent)\n"
    )
    tmp_path.chmod(0o777)
    done = as_user(OTHER, code, str(tmp_path))
    assert done.stdout.strip() == str(tmp_path / f".once-{OTHER}"), done.stderr


def as_user(uid: int, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code as another user, with the launcher's own modules at hand."""
    program = (
        "import os, sys\nimport launcher._util.ownership, launcher.rundir.once, json\n"
        f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n{code}"
    )
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)


CASES = """
from pathlib import Path
from launcher._util.errors import RequestError
from launcher._util.ownership import require_trusted
found = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    for shared in (False, True):
        try:
            require_trusted(path, shared=shared, hint="")
            found[f"{path.name} {shared}"] = True
        except RequestError:
            found[f"{path.name} {shared}"] = False
print(json.dumps(found))
"""


def test_which_directories_a_user_trusts(seen_by_all: Path) -> None:
    places = belongs_to(0, seen_by_all / "places", 0o755)
    belongs_to(OTHER, places / "mine", 0o700)
    belongs_to(0, places / "root", 0o755)
    belongs_to(THIRD, places / "another's", 0o777)
    group = belongs_to(THIRD, places / "the group's")
    os.chown(group, THIRD, OTHER)
    group.chmod(0o2775)
    (places / "my link").symlink_to("mine")
    os.lchown(places / "my link", OTHER, OTHER)
    (places / "another's link").symlink_to("mine")
    os.lchown(places / "another's link", THIRD, THIRD)
    done = as_user(OTHER, CASES, str(places))
    assert done.returncode == 0, done.stderr
    always, never = (True, True), (False, False)
    expected = {
        "mine": always,
        "root": always,
        "my link": always,
        "another's": never,
        "another's link": never,
        "the group's": (False, True),
    }
    found = json.loads(done.stdout)
    assert {name: (found[f"{name} False"], found[f"{name} True"]) for name in expected} == expected
