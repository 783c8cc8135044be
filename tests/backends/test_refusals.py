"""Each of these ends with its status and one paragraph that says what to do, and leaves nothing half done."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.running import ROOT, TOY, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    return user_of(tmp_path, slurm_cluster)


@pytest.fixture
def alone(tmp_path: Path) -> User:
    """Somebody on a machine without Slurm's commands."""
    made = user_of(tmp_path)
    found = [part for part in made.environ["PATH"].split(":") if not (Path(part) / "sbatch").exists()]
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "mkdir", "mv", "date", "uname", "cat"):
        if path := shutil.which(name):
            (tools / name).symlink_to(path)
    made.environ["PATH"] = ":".join([*found, str(tools)])
    return made


def refused(
    user: User, *arguments: str, status: int = 2, words: tuple[str, ...], environ: dict[str, str] | None = None
) -> str:
    before = sorted(user.directory.rglob("*"))
    done = user.run(*arguments, status=status, environ=environ)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert len(done.stderr.strip().split("\n\n")) == 1
    assert sorted(user.directory.rglob("*")) == before
    return done.stderr


COMMON = ("small.py", "--entrypoint", TOY)


def test_srun_sh_outside_an_allocation(alone: User) -> None:
    done = alone.call([str(ROOT / "srun.sh"), "small.py"], status=2)
    assert "salloc" in done.stderr
    assert "launcher submit" in done.stderr


def test_run_on_a_login_node(user: User) -> None:
    refused(user, "run", *COMMON, words=("not in an allocation", "salloc", "--cluster local"))


def test_a_slurm_profile_without_slurm(alone: User) -> None:
    refused(alone, "run", *COMMON, "--cluster", "slurm", words=("not on the PATH", "--cluster local"))
    refused(alone, "submit", *COMMON, words=("no Slurm to submit to", "launcher run"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.py",), ("no recipe 'missing.py'", "small.py")),
        ((), ("no recipe was given", "recipes/")),
        (("small.py", "x"), ("'x' is not KEY=VALUE",)),
        (("small.py", "train.train_itres=3"), ("train.train_itres", "train.train_iters")),
        (("small.py", "txet=3"), ("txet is not a key", "takes: text, other")),
        (("small.py", "train.train_iters=abc"), ("train.train_iters", "integer")),
        (("small.py", "train.train_iters=1e3"), ("train.train_iters=1000",)),
        (("small.py", "dataset.sequence_length=8", "dataset.seq_length=9"), ("dataset.seq_length",)),
        (("small.py", "-N3", "--gpus-per-node=8", "model.tensor_model_parallel_size=16"), ("24 ranks", "TP 16")),
        (("small.py", "--image", "./missing.sqsh", "--runtime", "pyxis"), ("no image", "missing.sqsh")),
        (("small.py", "--image", "missing.sqsh", "--runtime", "bwrap"), ("no image", "store", "launcher image list")),
        (
            ("small.py", "--image", "nvcr.io#nvidia/nemo:26.08", "--runtime", "pyxis"),
            ("no image", "launcher image import nvcr.io/nvidia/nemo:26.08 --cluster virtual"),
        ),
        (("small.py", "--image", "./small.py", "--runtime", "enroot"), ("small.py",)),
        (("small.py", "--runtime", "bwrap"), ("needs an image", "launcher image list")),
        (("small.py", "--image", "x.sqsh", "--runtime", "none"), ("needs a container", "--runtime pyxis")),
        (("small.py", "--mount", "/x"), ("needs a container",)),
        (
            ("small.py", "--cluster", "nowhere"),
            ("no cluster profile 'nowhere'", "`launcher clusters list` shows all profiles"),
        ),
        (("small.py", "--env", "HF_TOKEN"), ("has none",)),
        (("small.py", "--env", "HF_TOKEN=x"), ("looks like a secret", "--env HF_TOKEN")),
        (("small.py", "--sbatch", "nodes=3"), ("nodes is managed by the launcher", "--nodes")),
        (("small.py", "--resume", "small"), ("small",)),
        (("job.toml",), ("no job file",)),
        (("small.py", "--time", "soon"), ("error: --time: 'soon' is not a time limit",)),
        (("small.py", "--env", "1A=b"), ("error: --env: '1A' is not a name",)),
    ],
)
def test_wrong_requests(user: User, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(user, "submit", *arguments, "--no-check-config", words=words)


def test_pyxis_without_slurm(user: User) -> None:
    asked = ("run", *COMMON, "--cluster", "local", "--image", "./x.sqsh", "--runtime", "pyxis")
    refused(user, *asked, words=("through Slurm's srun", "--runtime bwrap", "--runtime none"))


def test_what_slurm_refuses(user: User) -> None:
    words = ("partition", "--partition")
    refused(user, "submit", *COMMON, "--partition", "nowhere", words=words)
    refused(user, "submit", *COMMON, "--nodes", "40", words=("sbatch refused the job", "sinfo"))


def test_a_refusal_in_the_words_of_a_site_is_a_wrong_request(user: User, tmp_path: Path) -> None:
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: a plugin of this site wants more' >&2\nexit 1\n")
    (fake / "sbatch").chmod(0o755)
    path = f"{fake}:{user.environ['PATH']}"
    words = ("a plugin of this site wants more", "job_submit plugin")
    refused(user, "submit", *COMMON, status=2, words=words, environ={"PATH": path})


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 kB."""
    place = tmp_path / "full"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(user: User, full_disk: Path) -> None:
    refused(user, "submit", *COMMON, "--run-root", str(full_disk), status=3, words=("No space left", "--run-root"))
    assert list(full_disk.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written(user: User) -> None:
    refused(user, "submit", *COMMON, "--run-root", "/proc/runs", status=3, words=("cannot be written", "--run-root"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rnu", "small.py"), ("'rnu' is not a command", "'run'")),
        (("small.py",), ("launcher run small.py",)),
        (("--nodes", "2", "run"), ("unknown option --nodes",)),
        (("run", "small.py", "--node", "2"), ("unknown option --node; did you mean --nodes?",)),
        (("run", "small.py", "--nodes", "two"), ("'two' is not a whole number",)),
    ],
)
def test_wrong_words(alone: User, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = alone.run(*arguments, status=2)
    for word in words:
        assert word in done.stderr
