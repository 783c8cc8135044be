"""Which engine works here, and what it is asked for. docker's daemon is not here: its command lines are recorded."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from launcher._util.errors import ImageError, OutsideError
from launcher._util.shell import LocalShell, Result
from launcher.api.progress import Silent
from launcher.images.build import containers, dockerfile
from launcher.images.build.dockerfile import DockerBuild, stage_of
from launcher.images.build.engines import Engine, find_engine, inspect, probe
from tests.images.engine_home import BASE, EngineHome
from tests.support.recorder import Recorder

DOCKER = {"ServerVersion": "27.1.1"}
NO_DAEMON = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


def said(stdout: str = "", status: int = 0, stderr: str = "") -> Callable[[Sequence[str]], Result]:
    return lambda argv: Result(tuple(argv), status, stdout, stderr)


def podman_info(runtime: str) -> str:
    return json.dumps(
        {"host": {"ociRuntime": {"path": runtime}}, "version": {"Version": "5.1"}, "store": {"graphRoot": "/g"}}
    )


def test_the_first_that_works_in_the_order_docker_podman_buildah() -> None:
    here = {"docker": said(json.dumps(DOCKER)), "podman": said(podman_info("/bin/sh")), "buildah": said('{"host": {}}')}
    assert find_engine(Recorder(here)) == Engine("docker", "27.1.1")
    del here["docker"]
    assert find_engine(Recorder(here)) == Engine("podman", "5.1", graph_root=Path("/g"))
    assert find_engine(Recorder(here), "buildah").name == "buildah"
    with pytest.raises(ImageError, match="not an engine"):
        find_engine(Recorder(here), "kaniko")


def test_a_client_without_a_daemon_is_not_an_engine() -> None:
    for answer in (
        said("", 1, NO_DAEMON),
        said(json.dumps({"ServerVersion": "", "ServerErrors": [NO_DAEMON]})),  # old clients end well
    ):
        assert "Cannot connect to the Docker daemon" in str(probe("docker", Recorder({"docker": answer})))


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs docker's client")
def test_the_real_client_is_asked() -> None:
    found = probe("docker", LocalShell())
    assert isinstance(found, Engine) or "daemon" in found.lower()


def test_podman_without_a_runtime_is_not_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUILDAH_ISOLATION", raising=False)
    shell = Recorder({"podman": said(podman_info("/usr/bin/no-such-runtime"))})
    assert probe("podman", shell) == "its runtime /usr/bin/no-such-runtime does not exist: install crun or runc"
    monkeypatch.setenv("BUILDAH_ISOLATION", "chroot")
    assert isinstance(probe("podman", shell), Engine), "builds need none then"


def test_where_none_works_each_has_its_reason() -> None:
    shell = Recorder({"docker": said("", 1, NO_DAEMON), "buildah": said("garbage")})
    with pytest.raises(OutsideError) as caught:
        find_engine(shell)
    hint = caught.value.hint or ""
    assert "docker: Cannot connect" in hint
    assert "podman: not installed" in hint
    assert "buildah: its output cannot be read" in hint
    assert caught.value.exit_status == 3


def test_what_docker_is_asked_for(tmp_path: Path) -> None:
    """Recorded: the command lines of a build and of reading its files."""
    spec = DockerBuild(tmp_path / "D", tmp_path, "last", (("A", "b c"),), "riscv64", (("id", tmp_path / "D"),))

    def docker(argv: Sequence[str]) -> Result:
        if argv[1] == "build":
            Path(argv[argv.index("--iidfile") + 1]).write_text("sha256:" + "a" * 64)
        if argv[1:3] == ["image", "inspect"]:
            image = {"Id": "sha256:" + "a" * 64, "Config": {"Env": ["A=1"]}, "RepoDigests": ["x@sha256:" + "b" * 64]}
            return Result(tuple(argv), 0, json.dumps([image]), "")
        return Result(tuple(argv), 0, "", "")

    shell = Recorder({"docker": docker, "tar": said(), "chmod": said()})
    engine = Engine("docker", "27")
    identity = dockerfile.build(engine, spec, tmp_path, shell, Silent())
    assert identity == "sha256:" + "a" * 64
    words = " ".join(shell.asked[0])
    assert words == (
        f"docker build --iidfile {tmp_path}/image.id --file {tmp_path}/D --target last --platform linux/riscv64"
        f" --build-arg A=b c --secret id=id,src={tmp_path}/D {tmp_path}"
    )
    assert "-t" not in shell.asked[0]
    assert (shell.environments[0] or {})["BUILDKIT_PROGRESS"] == "plain"
    image = inspect(engine, identity, shell)
    assert image is not None
    assert image.digest == "sha256:" + "b" * 64
    containers.export(engine, image, tmp_path / "root", shell, Silent())
    create, export, _, remove = [argv for argv in shell.asked[2:] if argv[0] in ("docker", "tar")]
    name = create[create.index("--name") + 1]
    assert create == ("docker", "create", "--name", name, image.id, "/bin/sh")
    assert export == ("docker", "export", name)
    assert remove == ("docker", "rm", "--force", "--volumes", name)


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("STEP 2/3: ENV A=b", "step 2/3: ENV A=b"),
        ("[1/1] STEP 2/3: ENV A=b", "step 2/3: ENV A=b"),
        ("[2/3] STEP 1/2: FROM x AS y", "step 1/2 of stage 2/3: FROM x AS y"),
        ("#7 [base 3/5] RUN apt-get   update", "step 3/5 of stage base: RUN apt-get update"),
        ("#7 [3/5] RUN make", "step 3/5: RUN make"),
        ("Step 3/5 : RUN make", "step 3/5: RUN make"),
        ("#7 0.512 step 3/5 of something", None),
        ("#7 [internal] load metadata", None),
        ("a program prints STEP 2/3: x", None),
    ],
)
def test_steps_are_recognised(line: str, stage: str | None) -> None:
    assert stage_of(line) == stage


@pytest.mark.parametrize("name", ["podman", "buildah"])
def test_an_engine_lists_what_it_holds(home: EngineHome, name: str) -> None:
    engine = find_engine(LocalShell(), name)
    image = inspect(engine, BASE, LocalShell())
    assert image is not None
    assert image.id == home.podman("image", "inspect", "--format", "sha256:{{.Id}}", BASE)
    assert image.config.architecture == "amd64"
    assert inspect(engine, "localhost/nobody/has-this:1", LocalShell()) is None


def test_containers_of_others_are_left_alone(home: EngineHome) -> None:
    """Whose name only looks like ours, and those of a launcher that runs."""
    engine = find_engine(LocalShell(), "podman")
    image = inspect(engine, BASE, LocalShell())
    assert image is not None
    home.podman("create", "--name", "launcher-export_x_y_z_1_2_3", BASE, "/bin/sh")
    try:
        with containers.container_of(engine, image, LocalShell()) as name:
            assert containers.remove_abandoned(engine, LocalShell()) == []
            assert any(each.endswith(name) for each in home.containers())
    finally:
        home.podman("rm", "launcher-export_x_y_z_1_2_3")
