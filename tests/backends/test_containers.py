"""Every runtime gives a task the same files, environment and directory: two nodes of two tasks, for real."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.backends.containers import PROGRAM, SCRATCH, contained, found, left_on, logs, missing, result, wrapped_enroot
from tests.backends.running import LAUNCHER, ROOT, User, user_of
from tests.support.slurm import virtual_cluster
from tests.support.slurm.machine import SEARCH_PATH
from tests.support.slurm.virtual_cluster import VirtualCluster

pytestmark = pytest.mark.timeout(300)

NODES = ("n1", "n2", "n3", "n4")
# What differs from one run to the next under one runtime, too.
OF_THE_RUN = re.compile(r"SLURM_.*|MASTER_.*|LAUNCHER_RUN_DIR|LAUNCHER_HEARTBEATS|PWD|OLDPWD")


@pytest.fixture
def mounts(tmp_path: Path) -> tuple[str, ...]:
    return mounted(tmp_path)


def mounted(directory: Path, blank: str = " ") -> tuple[str, ...]:
    """Options that mount one directory to read and one to write, with spaces in their names where there may be."""
    for name in (f"to{blank}read", f"to{blank}write"):
        (directory / name).mkdir()
        (directory / name / "here").touch()
    read, write = f"/mnt/read{blank}only", "/mnt/to/write"
    sources = f"{directory}/to{blank}read:{read}:ro", f"{directory}/to{blank}write:{write}"
    options = [word for source in sources for word in ("--mount", source)]
    return (*options, f"look.at=/etc+{read}+{write}+/root", f"look.in={read}")


def asked(mounts: tuple[str, ...]) -> tuple[str, ...]:
    return ("--nodes", "2", "--env", "NCCL_DEBUG=INFO", "--env", "QUOTED=it's a $HOME", "--env", "PASSED", *mounts)


def checked(run: Path, *, writable: bool, blank: str = " ") -> list[dict[str, Any]]:
    """What must be true of every rank under every runtime."""
    read = f"/mnt/read{blank}only"
    ranks = found(run)
    assert len(ranks) == 4, logs(run)
    for number, rank in enumerate(ranks):
        environment = rank["environment"]
        assert rank["made_for"] == "tests\n"
        assert rank["cwd"] == environment["LAUNCHER_RUN_DIR"] == str(run)
        assert environment["GREETING"] == "hello from the image"
        assert (environment["NCCL_DEBUG"], environment["QUOTED"]) == ("INFO", "it's a $HOME")
        assert environment["PASSED"] == "by\nname"
        assert (environment["RANK"], environment["WORLD_SIZE"]) == (str(number), "4")
        assert "EDITOR" not in environment
        assert rank["mounted"] == {read: ["here"]}
        refused = "Read-only file system"
        expected = {"/etc": "yes", "/root": "yes"} if writable else {"/etc": refused, "/root": refused}
        assert rank["writes"] == {**expected, read: refused, "/mnt/to/write": "yes"}
        assert (rank["tmp"], rank["shm"], rank["null"], rank["sys_is_read_only"]) == ([True, "yes"], "yes", "yes", True)
    return ranks


DIFFERENT_VARIABLES = {"SHLVL", "SLURM_TASK_PID", "_"}
"""How many shells stand before the program, and which process is the task's, differs between runtimes."""

OWN_FILES = {"/.lock", "/etc/gshadow-", "/etc/rc.local", "/etc/shadow-"}
"""Files that enroot, alone or under pyxis, puts into a container's root for its own use."""


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two ranks of different runtimes saw the same, except what is written down."""
    mine, theirs = one["environment"], other["environment"]
    assert {*mine} ^ {*theirs} <= DIFFERENT_VARIABLES
    for name in {*mine} & {*theirs} - DIFFERENT_VARIABLES:
        assert OF_THE_RUN.fullmatch(name) or mine[name] == theirs[name], name
    for key in ("user", "root", "etc", "python", "host", "hosts"):
        a, b = one[key], other[key]
        if isinstance(a, list) and key in ("root", "etc"):
            place = "/" if key == "root" else "/etc/"
            a, b = ([name for name in each if place + name not in OWN_FILES] for each in (a, b))
            a, b = ([name for name in each if not re.fullmatch(r"\d-\d+", name)] for each in (a, b))
        assert a == b, key


@pytest.fixture(scope="module")
def plain(slurm_cluster: VirtualCluster, image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the ranks find under bwrap, for the others to be compared with."""
    if reason := missing("bwrap"):
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("plain")
    user = contained(directory, "bwrap", image_file, slurm_cluster)
    user.user.environ["PASSED"] = "by\nname"
    run = user.submit(*asked(mounted(directory)))
    text = logs(run)
    assert text.count("launcher: unpacking") == 2, "once on each node, and not for the verdict"
    assert result(run)["outcome"] == "finished"
    assert [left_on(slurm_cluster, node) for node in NODES] == [[], [], [], []]
    return checked(run, writable=True)


def test_bwrap(plain: list[Any]) -> None:
    assert {rank["environment"]["SLURM_NODEID"] for rank in plain} == {"0", "1"}
    assert plain[0]["host"] != plain[3]["host"]


def test_a_container_that_cannot_be_written_to(
    slurm_cluster: VirtualCluster, image_file: Path, tmp_path: Path, mounts: tuple[str, ...]
) -> None:
    if reason := missing("bwrap"):
        pytest.skip(reason)
    user = contained(tmp_path, "bwrap", image_file, slurm_cluster, container_writable=False)
    user.user.environ["PASSED"] = "by\nname"
    checked(user.submit(*asked(mounts)), writable=False)


@pytest.mark.parametrize("writable", [True, False])
def test_enroot(
    slurm_cluster: VirtualCluster,
    image_file: Path,
    tmp_path: Path,
    mounts: tuple[str, ...],
    plain: list[Any],
    writable: bool,
) -> None:
    if reason := missing("enroot"):
        pytest.skip(reason)
    user = contained(tmp_path, "enroot", image_file, slurm_cluster, container_writable=writable)
    user.user.environ["PASSED"] = "by\nname"
    run = user.submit(*asked(mounts))
    assert logs(run).count("launcher: unpacking") == 2
    assert result(run)["outcome"] == "finished"
    assert [left_on(slurm_cluster, node) for node in NODES] == [[], [], [], []]
    for mine, theirs in zip(checked(run, writable=writable), plain, strict=True):
        same(mine, theirs)


@pytest.mark.parametrize(("scope", "writable"), [("global", True), ("job", False)])
def test_pyxis(
    new_cluster: Callable[..., VirtualCluster],
    image_file: Path,
    tmp_path: Path,
    plain: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    scope: str,
    writable: bool,
) -> None:
    if reason := missing("pyxis"):
        pytest.skip(reason)
    # pyxis calls the enroot of slurmd's PATH.
    path = f"{wrapped_enroot(tmp_path / 'bin')}:{SEARCH_PATH}"
    monkeypatch.setattr(virtual_cluster, "SEARCH_PATH", path)
    cluster = new_cluster(nodes=4, pyxis=Path(f"{os.environ['PYXIS']} container_scope={scope}"))
    living = cluster.submit("sleep 600", "--nodelist=n4")
    left = "pyxis_launcher-0123456789ab-abcdef-{job}-000"
    for job in (living, 99999):
        (cluster.directory / "run/n1/enroot/data" / left.format(job=job)).mkdir(parents=True)
    user = contained(tmp_path, "pyxis", image_file, cluster, container_writable=writable)
    user.user.environ["PASSED"] = "by\nname"
    run = user.submit(*asked(mounted(tmp_path, "-")))
    assert result(run)["outcome"] == "finished"
    for mine, theirs in zip(checked(run, writable=writable, blank="-"), plain, strict=True):
        same(mine, theirs)
    steps = "".join((cluster.directory / f"log/{node}.log").read_text() for node in NODES)
    assert steps.count("creating container filesystem") == 2, "once on each node"
    assert steps.count("reusing existing container filesystem") == 1, "the verdict"
    # What a cancelled job left is gone; what a living one has is not.
    assert left_on(cluster, "n1") == [f"enroot/data/{left.format(job=living)}"]
    assert [left_on(cluster, node) for node in NODES[1:]] == [[], [], []]


def test_in_an_allocation_and_on_this_machine_it_is_the_same_script(
    slurm_cluster: VirtualCluster, image_file: Path, tmp_path: Path, plain: list[Any]
) -> None:
    if reason := missing("bwrap"):
        pytest.skip(reason)
    user = contained(tmp_path, "bwrap", image_file, slurm_cluster, scratch="/run/scratch")
    common = ("--env", "NCCL_DEBUG=INFO")
    asked = user.arguments("--cluster", "here", "--nodes", "2", *common)
    done = user.user.salloc("run", *asked, options=("-N2", "--ntasks-per-node=2"))
    allocated = Path(json.loads(done.stdout)["run_dir"])
    here, _ = user.local(*common)
    assert len(found(allocated)) == 4
    assert len(found(here)) == 2
    assert found(here)[0]["made_for"] == "tests\n"
    assert logs(here).count("launcher: unpacking") == 1
    assert not list(Path("/run/scratch").glob(f"launcher-{os.geteuid()}/launcher-*"))
    texts = {run: (run / "enter.sh").read_text().replace(str(run), "RUN") for run in (here, allocated)}
    names = {run: re.search(r"^run_dir=.*$", text, re.MULTILINE) for run, text in texts.items()}
    assert all(names.values())
    assert texts[here] == texts[allocated]
    environments = [found(run)[0]["environment"] for run in (here, allocated)]
    names_here, names_there = ({name for name in each if not name.startswith("SLURM")} for each in environments)
    assert names_here ^ names_there <= {"TMPDIR", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", *DIFFERENT_VARIABLES}


def test_enroot_on_this_machine(image_file: Path, tmp_path: Path) -> None:
    if reason := missing("enroot"):
        pytest.skip(reason)
    user = contained(tmp_path, "enroot", image_file)
    run, _ = user.local("--env", "NCCL_DEBUG=INFO")
    assert [rank["environment"]["NCCL_DEBUG"] for rank in found(run)] == ["INFO", "INFO"]
    assert logs(run).count("launcher: unpacking") == 1
    assert list((tmp_path / "scratch").glob("launcher-*/launcher-*")) == []
    assert list((tmp_path / "scratch").glob("launcher-*/enroot/*")) == []


@pytest.fixture
def checkout(tmp_path: Path, image_file: Path) -> Path:
    """A directory with srun.sh, and the image where `make build` leaves it."""
    directory = tmp_path / "checkout"
    directory.mkdir()
    shutil.copy(ROOT / "srun.sh", directory)
    (directory / "megatron-lm+latest.sqsh").symlink_to(image_file)
    return directory


def by_srun_sh(user: User, checkout: Path, *arguments: str) -> Path:
    """Run a shipped recipe by srun.sh in an allocation of two nodes; return the run directory."""
    path = f"{LAUNCHER.parent}:{user.environ['PATH']}"
    recipe = str(ROOT / "recipes/vanilla_gpt_pretrain.py")
    argv = ["salloc", "-N2", "--ntasks-per-node=2", str(checkout / "srun.sh"), recipe, "--no-check-config", *arguments]
    done = user.call([*argv, "--entrypoint", PROGRAM, "--json"], environ={"PATH": path})
    return Path(json.loads(done.stdout)["run_dir"])


@pytest.mark.parametrize("runtime", ["bwrap", "enroot"])
def test_srun_sh_uses_the_image_of_make_build_where_the_cluster_has_a_runtime(
    slurm_cluster: VirtualCluster, checkout: Path, tmp_path: Path, runtime: str
) -> None:
    if reason := missing(runtime):
        pytest.skip(reason)
    user = user_of(tmp_path, slurm_cluster)
    profile = tmp_path / "clusters/virtual.toml"
    profile.write_text(f'{profile.read_text()}scratch = "{SCRATCH}"\n')
    if runtime == "enroot":
        user.environ["PATH"] = f"{wrapped_enroot(tmp_path / 'bin')}:{user.environ['PATH']}"
    else:
        user.environ["PATH"] = without(tmp_path / "few", "enroot", user.environ["PATH"])
    run = by_srun_sh(user, checkout, "--nodes", "2")
    assert [rank["made_for"] for rank in found(run)] == ["tests\n"] * 4, logs(run)
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["runtime"], plan["image"]["path"]) == (runtime, str((checkout / "megatron-lm+latest.sqsh").resolve()))
    assert f"/{runtime}" in plan["runtime_origin"]
    assert {"source": str(checkout), "target": "/workspace/megatron", "read_only": False} in plan["mounts"]
    # The bare machine is used only where that was asked for.
    bare = by_srun_sh(user, checkout, "--nodes", "2", "--runtime", "none")
    assert [rank["made_for"] for rank in found(bare)] == [None] * 4


def test_srun_sh_uses_pyxis_where_srun_lists_its_options(
    slurm_cluster: VirtualCluster, checkout: Path, tmp_path: Path
) -> None:
    user = user_of(tmp_path, slurm_cluster)
    stand_in = tmp_path / "stand-in"
    stand_in.mkdir()
    # As `srun --help` prints it where the plugin is loaded.
    (stand_in / "srun").write_text("#!/bin/sh\necho '      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH'\n")
    (stand_in / "srun").chmod(0o755)
    path = f"{stand_in}:{LAUNCHER.parent}:{user.environ['PATH']}"
    recipe = str(ROOT / "recipes/vanilla_gpt_pretrain.py")
    argv = ["salloc", "-N2", "--ntasks-per-node=2", str(checkout / "srun.sh"), recipe, "--nodes=2", "--dry-run"]
    shown = user.call([*argv, "--no-check-config"], environ={"PATH": path}).stdout
    image = (checkout / "megatron-lm+latest.sqsh").resolve()
    assert "runtime      pyxis (srun --help lists --container-image)" in shown
    assert f"    --container-image={image}\n" in shown
    assert f":{checkout}:/workspace/megatron" in shown or f",{checkout}:/workspace/megatron" in shown


def without(directory: Path, program: str, path: str) -> str:
    """Return the PATH with one program left out of the directories that have it."""
    for number, place in enumerate(path.split(os.pathsep)):
        if not (Path(place) / program).exists():
            continue
        copy = directory / str(number)
        copy.mkdir(parents=True)
        for each in Path(place).iterdir():
            if each.name != program:
                (copy / each.name).symlink_to(each)
        path = path.replace(place, str(copy))
    return path
