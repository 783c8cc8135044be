"""`launcher image` as its users meet it: real engines, a real Slurm, the command line."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.images.store.store import Store
from tests.backends.containers import (
    PROGRAM,
    SCRATCH,
    Contained,
    contained,
    found,
    logs,
    missing,
    wrapped_enroot,
)
from tests.backends.running import LAUNCHER, ROOT, User, user_of
from tests.images.engine_home import EngineHome, make_home, missing_engine, slim_root
from tests.images.stores import whole
from tests.support.limits import seconds
from tests.support.slurm import virtual_cluster
from tests.support.slurm.machine import SEARCH_PATH
from tests.support.slurm.virtual_cluster import VirtualCluster

pytestmark = pytest.mark.timeout(300)

BASE = "localhost/launcher-cli-base:1"
DOCKERFILE = f"""\
FROM {BASE}
ARG GREETING=hello
ENV GREETING=$GREETING NCCL_DEBUG=VERSION
RUN mkdir -p /opt/tools && echo tests > /etc/made-for
COPY note.txt /opt/tools/note.txt
WORKDIR /opt/tools
ENTRYPOINT ["/bin/false"]
"""


@pytest.fixture(scope="module")
def engines(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineHome]:
    """podman and buildah with a storage of their own, in which BASE is a small root with a shell."""
    if (reason := missing_engine()) is not None:
        pytest.skip(reason)
    home = _home(slim_root(debian, tmp_path_factory.mktemp("slim")), tmp_path_factory.mktemp("engine"))
    yield home
    home.unmount()


def _home(root: Path, directory: Path) -> EngineHome:
    home = make_home(directory)
    archive = directory / "base.tar"
    subprocess.run(["tar", "-C", str(root), "--exclude=./dev/*", "-cf", str(archive), "."], check=True)
    home.podman("import", "--quiet", str(archive), BASE)
    archive.unlink()
    return home


def builder(directory: Path, engines: EngineHome, cluster: VirtualCluster | None = None) -> User:
    """A user with a Dockerfile in `project`, whose stores lie below `data`."""
    user = user_of(directory, cluster)
    (directory / "project").mkdir()
    (directory / "project/Dockerfile").write_text(DOCKERFILE)
    (directory / "project/note.txt").write_text("a note\n")
    # Not what this machine's user may have: enroot would be taken where it is.
    user.environ.update(engines.environment, XDG_DATA_HOME=str(directory / "data"))
    return user


BUILD = ("image", "build", "-f", "project/Dockerfile", "--name", "mine:1", "--json", "--quiet")


def build(user: User, *more: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(user.run(*BUILD, *more).stdout)
    return answer


def store_of(user: User, cluster: str = "local") -> Path:
    return user.directory / "data/launcher/images" / cluster


@pytest.fixture(scope="module")
def project(
    debian: Path, slurm_cluster: VirtualCluster, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Contained, dict[str, Any]]:
    """An image built by the command from a Dockerfile FROM Debian with python3, and a user who runs in it."""
    if reason := missing_engine() or missing("bwrap"):
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("project")
    home = _home(debian, tmp_path_factory.mktemp("debian-engine"))
    user = contained(directory, "bwrap", directory / "unused", slurm_cluster)
    made = builder(tmp_path_factory.mktemp("builder"), home)
    user.user.environ.update(home.environment, XDG_DATA_HOME=str(directory / "data"))
    (directory / "project").symlink_to(made.directory / "project")
    return user, build(user.user, "--cluster", "here", "--build-arg", "GREETING=hello from the image")


def test_a_dockerfile_becomes_an_image_that_a_job_of_two_nodes_runs_in(
    project: tuple[Contained, dict[str, Any]], tmp_path: Path
) -> None:
    user, built = project
    assert built["names"] == ["mine+1"]
    (tmp_path / "here").touch()
    mount = f"{tmp_path}:/mnt/data:ro"
    run = user.submit("--nodes", "2", "--mount", mount, "look.in=/mnt/data+/opt/tools", *("--image", "mine:1"))
    ranks = found(run)
    assert len(ranks) == 4
    assert not user.cluster or not user.cluster.options.namespaces or len({rank["host"] for rank in ranks}) == 2
    for rank in ranks:
        assert rank["made_for"] == "tests\n"
        assert rank["environment"]["GREETING"] == "hello from the image"
        assert rank["environment"]["NCCL_DEBUG"] == "VERSION"
        assert rank["mounted"] == {"/mnt/data": ["here"], "/opt/tools": ["note.txt"]}
        assert rank["cwd"] == str(run)
    plan = json.loads((run / "plan.json").read_text())
    assert plan["image"]["digest"] == built["digest"]
    assert plan["image"]["path"] == built["path"]
    assert plan["image"]["name"] == "mine:1"


def test_a_rebuilt_name_changes_nothing_for_a_queued_run_and_gc_leaves_its_image(
    project: tuple[Contained, dict[str, Any]],
) -> None:
    user, built = project
    assert user.cluster is not None
    asked = user.arguments("--cluster", "here", "--sbatch", "hold", image="mine:1")
    queued = json.loads(user.user.run("submit", *asked).stdout)
    newer = build(user.user, "--cluster", "here", "--build-arg", "GREETING=good day")
    assert newer["digest"] != built["digest"]
    collect = ("image", "gc", "--cluster", "here", "--include-named", "--older-than", "0", "--json")
    kept = json.loads(user.user.run(*collect).stdout)
    assert [each["digest"] for each in kept["kept"]] == [built["digest"]]
    assert f"job {queued['job']}" in kept["kept"][0]["reason"]
    assert [each["digest"] for each in kept["removed"]] == [newer["digest"]]
    user.cluster.run("scontrol", "release", queued["job"])
    assert user.cluster.wait(queued["job"], "COMPLETED", "FAILED", timeout_s=90) == "COMPLETED"
    assert {rank["environment"]["GREETING"] for rank in found(Path(queued["run_dir"]))} == {"hello from the image"}
    gone = json.loads(user.user.run(*collect).stdout)
    assert [each["digest"] for each in gone["removed"]] == [built["digest"]]
    assert gone["kept"] == []


def test_eight_builds_at_once_are_one(engines: EngineHome, tmp_path: Path) -> None:
    user = builder(tmp_path, engines)
    processes = [
        subprocess.Popen(
            [str(LAUNCHER), *BUILD],
            cwd=tmp_path,
            env=user.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    ended = [process.communicate(timeout=seconds(200)) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, ended
    answers = [json.loads(out) for out, _ in ended]
    assert len({answer["digest"] for answer in answers}) == 1
    assert [answer["reused"] for answer in answers].count(False) == 1
    assert len(list(store_of(user).glob("sha256/*.sqsh"))) == 1
    assert any("waiting" in err for _, err in ended), ended


def test_a_build_killed_at_any_moment_leaves_a_store_that_the_next_can_use(engines: EngineHome, tmp_path: Path) -> None:
    user = builder(tmp_path, engines)
    begin = time.monotonic()
    build(user)
    usual_s = time.monotonic() - begin
    chance = random.Random(20261121)  # noqa: S311
    for number in range(10):
        (tmp_path / "project/note.txt").write_text(f"note {number}\n")
        process = subprocess.Popen(
            [str(LAUNCHER), *BUILD],
            cwd=tmp_path,
            env=user.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0.1, usual_s))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        listed = json.loads(user.run("image", "list", "--json").stdout)["images"]
        assert listed
        assert all(each["problem"] is None for each in listed)
        assert all(Path(each["path"]).is_file() for each in listed)
    made = build(user)
    user.run("image", "verify", "mine:1", "--checksum")
    assert made["names"] == ["mine+1"]
    assert whole(Store(store_of(user)))
    assert not tellable(engines)


def tellable(engines: EngineHome) -> list[str]:
    """The containers that say whose they are: not one that was killed before that was written."""
    states = (engines.directory / "graph").glob("*-containers/*/userdata/buildah.json")
    known = {state.parent.parent.name for state in states}
    return [line for line in engines.containers() if line.split()[0] in known]


def test_a_build_in_a_job_is_shown_as_if_it_happened_here(
    engines: EngineHome, tmp_path: Path, slurm_cluster: VirtualCluster
) -> None:
    user = builder(tmp_path, engines, slurm_cluster)
    argv = (
        "image",
        "build",
        "-f",
        "project/Dockerfile",
        "--name",
        "mine:1",
        "--in-job-on",
        "virtual",
        "--cpus",
        "2",
        "--json",
    )
    done = user.run(*argv)
    answer = json.loads(done.stdout)
    assert Path(answer["path"]).is_relative_to(store_of(user, "virtual"))
    assert re.search(r"job \d+ on virtual", done.stderr)
    assert "packing" in done.stderr
    assert "mine+1" in user.run("image", "list", "--cluster", "virtual").stdout
    (tmp_path / "project/Dockerfile").write_text(f"FROM {BASE}\nRUN echo these are its own words && exit 7\n")
    failed = user.run(*argv, status=3)
    assert "these are its own words" in failed.stderr
    assert "error:" in failed.stderr
    missing_file = user.run("image", "import", "nowhere.sqsh", "--in-job-on", "virtual", "--cpus", "2", status=2)
    assert "nowhere.sqsh" in missing_file.stderr


def test_what_is_known_of_an_image_is_shown(image_file: Path, tmp_path: Path) -> None:
    user = user_of(tmp_path)
    user.environ["XDG_DATA_HOME"] = str(tmp_path / "data")
    made = json.loads(user.run("image", "import", str(image_file), "--name", "small", "--json", "-q").stdout)
    again = json.loads(user.run("image", "import", str(image_file), "--name", "other:2", "--json", "-q").stdout)
    assert made["digest"] == again["digest"]
    assert len(list(store_of(user).glob("sha256/*.sqsh"))) == 1
    user.environ["COLUMNS"] = "200"
    listed = user.run("image", "list").stdout
    assert re.search(rf"other\+2, small +{made['digest'][7:19]} ", listed)
    shown = user.run("image", "inspect", "small").stdout
    assert "GREETING=hello from the image" in shown
    assert "x86_64" in shown
    assert made["digest"] in shown
    assert made["digest"] in user.run("image", "inspect", made["digest"][7:19], "--json").stdout
    assert "good (every byte" in user.run("image", "verify", "small", "--checksum").stdout
    plan = json.loads(
        user.run(
            "plan",
            "small.py",
            "--image",
            "small",
            "--runtime",
            "bwrap",
            "--env",
            "GREETING=mine",
            "--json",
            "--no-check-config",
        ).stdout
    )["plan"]
    greeting = next(each for each in plan["environment"] if each["name"] == "GREETING")
    assert (greeting["value"], greeting["origin"]) == ("mine", "--env")
    assert ["the image", "hello from the image"] in greeting["overridden"]


def test_broken_images_are_refused_with_status_2(image_file: Path, tmp_path: Path) -> None:
    user = user_of(tmp_path)
    user.environ["XDG_DATA_HOME"] = str(tmp_path / "data")
    (tmp_path / "clusters/arm.toml").write_text('extends = "local"\narchitecture = "aarch64"\nruntime = "bwrap"\n')
    whole_file = image_file.read_bytes()
    (tmp_path / "short.sqsh").write_bytes(whole_file[: len(whole_file) // 2])
    (tmp_path / "empty.sqsh").touch()
    (tmp_path / "page.sqsh").write_text("<html><body>401 Unauthorized</body></html>")
    (tmp_path / "small.sqsh").symlink_to(image_file)
    user.run("image", "import", str(image_file), "--name", "flipped", "-q")
    stored = next(store_of(user).glob("sha256/*.sqsh"))
    stored.chmod(0o600)
    with stored.open("r+b") as file:
        file.seek(len(whole_file) // 3)
        byte = file.read(1)
        file.seek(len(whole_file) // 3)
        file.write(bytes([byte[0] ^ 0x20]))
    refused = {
        ("./short.sqsh",): "truncated",
        ("./empty.sqsh",): "empty",
        ("./page.sqsh",): "web page",
        ("small.sqsh",): "./small.sqsh",
        ("./small.sqsh", "--cluster", "arm"): "aarch64",
        ("nvcr.io#nvidia/nemo:26.08",): "launcher image import nvcr.io/nvidia/nemo:26.08",
        ("flipped", "--checksum"): "damaged",
    }
    for arguments, words in refused.items():
        done = user.run("image", "verify", *arguments, status=2)
        assert words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        if "--checksum" not in arguments:
            cluster = () if "--cluster" in arguments else ("--cluster", "local")
            planned = user.run("run", "small.py", "--image", *arguments, *cluster, "--runtime", "bwrap", status=2)
            assert words in planned.stderr
    assert user.runs() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("build", "-f", "Dockerfile", "--secret", "TOKEN"), "'TOKEN' is not NAME=FILE"),
        (("build", "-f", "Dockerfile", "--secret", "TOKEN=absent"), "there is no file"),
        (("build", "-f", "Dockerfile", "--build-arg", "NGC_API_KEY=abc"), "--secret NGC_API_KEY=PATH"),
        (("build", "megatron", "-f", "Dockerfile"), "SPEC and --file"),
        (("build", "nothing"), "nothing"),
        (("import", "nvcr.io/NVIDIA/nemo:26.08"), "lower-case letters"),
        (("import", "./nowhere"), "the file or directory does not exist"),
        (("gc", "--older-than", "soon"), "is not an age"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_made(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    user = user_of(tmp_path)
    user.environ["XDG_DATA_HOME"] = str(tmp_path / "data")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    done = user.run("image", *arguments, status=2)
    assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("runtime", ["bwrap", "enroot", "pyxis"])
def test_make_build_and_srun_sh_in_an_allocation_run_in_the_image(
    project: tuple[Contained, dict[str, Any]],
    new_cluster: Callable[..., VirtualCluster],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: str,
) -> None:
    """`make build`, then `salloc -N 2` and `./srun.sh RECIPE`, as the README has it; the Dockerfile is a small one.

    On a cluster that has this runtime; enroot and pyxis where they are installed.
    """
    if reason := missing(runtime):
        pytest.skip(reason)
    if runtime != "bwrap":
        monkeypatch.setattr(virtual_cluster, "SEARCH_PATH", f"{wrapped_enroot(tmp_path / 'bin')}:{SEARCH_PATH}")
    cluster = new_cluster(nodes=2, pyxis=Path(os.environ["PYXIS"]) if runtime == "pyxis" else None)
    user = user_of(tmp_path, cluster)
    if runtime == "enroot":
        user.environ["PATH"] = f"{tmp_path}/bin:{user.environ['PATH']}"
    engines = ("CONTAINERS_STORAGE_CONF", "CONTAINERS_CONF", "BUILDAH_ISOLATION")
    user.environ.update({name: project[0].user.environ[name] for name in engines}, XDG_DATA_HOME=str(tmp_path / "data"))
    checkout = tmp_path / "checkout"
    (checkout / "recipes").mkdir(parents=True)
    for name in ("Makefile", "srun.sh", "recipes/vanilla_gpt_pretrain.py"):
        shutil.copy(ROOT / name, checkout / name)
    (checkout / "Dockerfile").write_text(DOCKERFILE)
    (checkout / "note.txt").write_text("a note\n")
    (checkout / ".venv").symlink_to(LAUNCHER.parents[1])
    profile = tmp_path / "clusters/virtual.toml"
    profile.write_text(f'{profile.read_text()}scratch = "{SCRATCH}"\n')

    # The development tools are installed already, elsewhere.
    argv = [
        "make",
        "-C",
        str(checkout),
        "-o",
        ".venv/.installed",
        "build",
        "BUILD_ARGS=-f Dockerfile --build-arg GREETING=built",
    ]
    user.call(argv, timeout_s=200)
    image = checkout / "megatron-lm+latest.sqsh"
    assert image.is_symlink()
    words = ("recipes/vanilla_gpt_pretrain.py", "--no-check-config", "--entrypoint", PROGRAM, "look.in=/opt/tools")
    allocated = User(checkout, user.environ)
    allocated.call(["salloc", "-N", "2", "--exclusive", "./srun.sh", *words])
    (run,) = allocated.runs()
    ranks = found(run)
    assert [rank["made_for"] for rank in ranks] == ["tests\n"] * len(ranks), logs(run)
    assert {rank["environment"]["GREETING"] for rank in ranks} == {"built"}
    assert all(rank["mounted"] == {"/opt/tools": ["note.txt"]} for rank in ranks)
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["runtime"], plan["layout"]["nodes"]) == (runtime, 2)
    assert plan["image"]["path"] == str(image.resolve())
    assert len(ranks) == plan["world_size"]
