"""Images from elsewhere: a real registry, engines, directories, tarballs, squashfs files."""

import base64
import json
import os
import pickle
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from launcher._util.errors import ImageError, OutsideError
from launcher._util.shell import LocalShell, Result
from launcher.api.progress import Silent
from launcher.images.build.importing import ImportRequest, import_image
from launcher.images.build.result import ImageOutcome
from launcher.images.store.store import Store
from tests.images.engine_home import BASE, EngineHome
from tests.images.registry import Broken, Cut, Fault, Registry, Stall, Status, times
from tests.images.test_build import Recorded, cat, listing
from tests.support.limits import seconds
from tests.support.recorder import Recorder


@pytest.fixture(params=["enroot", "podman"])
def tool(request: pytest.FixtureRequest, home: EngineHome) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"needs {request.param}")
    return str(request.param)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.images.build.transfers.WAITS_S", (0.1, 0.2))


def take(store: Store, source: str, told: Recorded | None = None, **options: str | None) -> ImageOutcome:
    directory = Path(options.pop("directory") or "/") if "directory" in options else store.root.parent
    request = ImportRequest(source, directory, **options)
    return import_image(request, store, LocalShell(), told or Silent())


# ---- registries


@pytest.mark.parametrize("tool", ["enroot", "podman", "buildah"], indirect=True)
def test_an_image_of_a_registry(tool: str, home: EngineHome, registry: Registry, store: Store) -> None:
    digest = registry.push(BASE, "team/tool:1")
    images, names = home.images(), home.names()
    made = take(store, f"{registry.host}/team/tool:1", engine=tool)
    assert not made.reused
    assert made.entry.names == (f"127.0.0.1={registry.port}+team+tool+1",)
    assert "usr/bin/bash" in listing(made.entry.path)
    manifest = made.entry.manifest
    assert manifest is not None
    assert manifest.source is not None
    assert (manifest.source.kind, manifest.source.digest) == ("registry", digest)
    assert manifest.source.text == f"{registry.host}/team/tool:1"
    assert (manifest.architecture, manifest.compression) == ("x86_64", "zstd:3")
    assert tool in manifest.tools
    assert (home.images(), home.names()) == (images, names), "the user's own images are as before"


def test_a_name_that_has_not_moved_is_not_fetched_again(
    tool: str, broken: Broken, registry: Registry, store: Store
) -> None:
    first = take(store, f"{broken.host}/base:1", engine=tool)
    fetched = broken.blobs()
    assert fetched or tool == "enroot"  # which may have the layers in its cache
    again = take(store, f"{broken.host}/base:1", engine=tool)
    assert again.reused
    assert again.entry == first.entry
    other_name = take(store, f"{broken.host}/base:1", engine=tool, name="mine:2")
    assert other_name.reused
    assert set(other_name.entry.names) == {*first.entry.names, "mine+2"}
    assert other_name.entry.path == first.entry.path
    assert other_name.entry.path.exists()
    assert broken.blobs() == fetched
    assert not take(store, f"{broken.host}/base:1", engine=tool, compression="lz4").reused


def test_a_name_that_has_moved_is_fetched(home: EngineHome, registry: Registry, store: Store, tmp_path: Path) -> None:
    registry.push(BASE, "moving:1")
    first = take(store, f"{registry.host}/moving:1", engine="podman")
    (tmp_path / "Dockerfile").write_text(f"FROM {BASE}\nRUN echo new > /new\n")
    registry.push(home.podman("build", "--quiet", str(tmp_path)), "moving:1")
    second = take(store, f"{registry.host}/moving:1", engine="podman")
    assert not second.reused
    assert cat(second.entry.path, "new") == "new\n"
    assert first.entry.path.exists(), "queued runs may need it"
    assert second.entry.names == first.entry.names
    old = store.by_digest((first.entry.digest or "").removeprefix("sha256:"))
    assert old is not None
    assert old.names == ()


ENROOT_WITHOUT_OCI = """#!/bin/sh
case $1 in
    version) echo 4.1.2 ;;
    *) echo "[INFO] Fetching image manifest" >&2
       echo "[ERROR] URL http://x/v2/team/tool/manifests/1 returned error code: 404 Not Found" >&2; exit 1 ;;
esac
"""


def test_an_image_of_the_oci_format_is_fetched_although_enroot_answers_404(
    enroot_program: str, home: EngineHome, registry: Registry, store: Store
) -> None:
    digest = registry.push(BASE, "of-oci:1", "oci")
    told = Recorded()
    made = take(store, f"{registry.host}/of-oci:1", told)
    manifest = made.entry.manifest
    assert manifest is not None
    assert manifest.source is not None
    assert (manifest.source.digest, "podman" in manifest.tools) == (digest, True)
    with pytest.raises(ImageError, match="--engine podman"):
        take(store, f"{registry.host}/of-oci:1", engine="enroot", name="other")


def test_an_image_that_the_registry_hides_from_enroot_is_fetched_with_an_engine(
    home: EngineHome, registry: Registry, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = registry.push(BASE, "team/tool:1")
    program = tmp_path / "bin" / "enroot"
    program.parent.mkdir()
    program.write_text(ENROOT_WITHOUT_OCI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    told = Recorded()
    made = take(store, f"{registry.host}/team/tool:1", told)
    assert made.entry.manifest is not None
    assert made.entry.manifest.source is not None
    assert made.entry.manifest.source.digest == digest
    assert "podman" in made.entry.manifest.tools
    assert "enroot does not find the image that the registry has: fetching with podman instead" in told.lines
    with pytest.raises(ImageError, match="has no such image"):
        take(store, f"{registry.host}/team/tool:none", told)
    with pytest.raises(ImageError, match="--engine podman"):
        take(store, f"{registry.host}/team/tool:1", told, engine="enroot")


@pytest.mark.parametrize(("tool", "fault"), [("enroot", Status(429)), ("podman", Status(503))], indirect=["tool"])
def test_a_registry_that_fails_twice(tool: str, quick: None, broken: Broken, store: Store, fault: Fault) -> None:
    broken.fault = times(2, fault)
    told = Recorded()
    assert take(store, f"{broken.host}/base:1", told, engine=tool).entry.names
    assert len(store.entries()) == 1
    if tool == "enroot":
        assert any("attempt 2 of 3" in line for line in told.lines), told.lines


def test_a_connection_that_is_cut_in_a_layer(
    tool: str, quick: None, broken: Broken, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENROOT_CACHE_PATH", str(tmp_path / "cache"))
    broken.fault = times(1, Cut(), "/blobs/")
    made = take(store, f"{broken.host}/base:1", engine=tool)
    assert cat(made.entry.path, "etc/os-release") == "ID=test\n"


@pytest.mark.parametrize("part", ["/blobs/", "/manifests/"])
def test_a_registry_that_stalls_is_noticed_and_ended(
    tool: str, quick: None, broken: Broken, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setenv("ENROOT_CACHE_PATH", str(tmp_path / "cache"))
    monkeypatch.setattr("launcher.images.build.stalls.NOTICE_S", 2)
    monkeypatch.setattr("launcher.images.build.stalls.LIMIT_S", 4)
    monkeypatch.setattr("launcher.images.build.registry._TIMEOUT_S", 1)
    broken.fault = times(999, Stall(), part)
    told, begin = Recorded(), time.monotonic()
    with pytest.raises(OutsideError, match="the registry does not answer in time") as caught:
        take(store, f"{broken.host}/base:1", told, engine=tool)
    assert time.monotonic() - begin < seconds(45)
    assert any("nothing has come from the registry for" in line for line in told.lines), told.lines
    assert f"{tool} has received nothing for" in str(caught.value)
    assert len([line for line in told.lines if "attempt 2 of" in line]) == 1
    assert not store.entries()
    broken.over.set()
    broken.fault = lambda *_: None
    assert take(store, f"{broken.host}/base:1", engine=tool).entry.names, "nothing that it left is in the way"


# podman waits for minutes where the registry answers that there were too many requests.
@pytest.mark.parametrize(
    ("tool", "fault", "error", "words"),
    [
        ("enroot", Status(500), OutsideError, "error 500"),
        ("enroot", Status(429), OutsideError, "too many requests"),
        ("enroot", Status(401), ImageError, "refuses access"),
        ("enroot", Status(403), ImageError, "refuses access"),
        ("enroot", Status(404), ImageError, "no such image"),
        ("podman", Status(500), OutsideError, "error 500"),
        ("podman", Status(401), ImageError, "refuses access"),
        ("podman", Status(404), ImageError, "no such image"),
    ],
    indirect=["tool"],
)
def test_a_registry_that_does_not_give_it(
    tool: str, quick: None, broken: Broken, store: Store, fault: Fault, error: type[Exception], words: str
) -> None:
    broken.fault = times(999, fault)
    with pytest.raises(error, match=words) as caught:
        take(store, f"{broken.host}/base:1", engine=tool)
    assert f"{broken.host}/base:1" in str(caught.value)
    assert not store.entries()
    assert not any(store.partial.iterdir() if store.partial.exists() else ())
    if words == "refuses access" and tool == "enroot":
        assert ".credentials" in str(caught.value)


@pytest.fixture
def log_in(tool: str, broken: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give the tool the credentials `user:password`, where it reads them."""

    def give(login: str) -> None:
        user, _, password = login.partition(":")
        if tool == "enroot":
            monkeypatch.setenv("ENROOT_CONFIG_PATH", str(tmp_path / "enroot"))
            (tmp_path / "enroot").mkdir(mode=0o700)
            (tmp_path / "enroot/.credentials").write_text(f"machine 127.0.0.1 login {user} password {password}\n")
            (tmp_path / "enroot/.credentials").chmod(0o600)
            return
        secret = base64.b64encode(login.encode()).decode()
        (tmp_path / "auth.json").write_text(json.dumps({"auths": {broken.host: {"auth": secret}}}))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))

    return give


@pytest.mark.parametrize("login", [None, "somebody:wrong"])
def test_basic_authentication_without_the_password(
    tool: str, quick: None, broken: Broken, store: Store, log_in: Callable[[str], None], login: str | None
) -> None:
    broken.login = "somebody:right"
    if login is not None:
        log_in(login)
    with pytest.raises(ImageError, match="refuses access") as caught:
        take(store, f"{broken.host}/base:1", engine=tool)
    words = ".credentials" if tool == "enroot" else f"podman login {broken.host}"
    assert words in (caught.value.hint or "")
    assert "wrong" not in str(caught.value)


def test_basic_authentication_with_the_password(
    tool: str, broken: Broken, store: Store, log_in: Callable[[str], None]
) -> None:
    broken.login = "somebody:right"
    log_in(broken.login)
    assert take(store, f"{broken.host}/base:1", engine=tool).entry.names


def test_an_unknown_image_and_a_registry_that_is_not_there(
    tool: str, quick: None, registry: Registry, store: Store
) -> None:
    with pytest.raises(ImageError, match="no such image"):
        take(store, f"{registry.host}/base:no-such-tag", engine=tool)
    if tool == "enroot":  # podman first tries for many seconds by itself
        with pytest.raises(OutsideError, match="does not accept connections"):
            take(store, "127.0.0.1:1/base:1", engine=tool)


def test_another_architecture_is_refused_when_it_is_not_there(tool: str, registry: Registry, store: Store) -> None:
    with pytest.raises(ImageError, match=r"not for aarch64|no such image|x86_64"):
        take(store, f"{registry.host}/base:1", engine=tool, architecture="aarch64")
    assert not store.entries()


def test_docker_pulls_by_digest_and_removes_only_what_was_not_there(
    registry: Registry, home: EngineHome, slim: Path, tmp_path: Path, store: Store
) -> None:
    """Recorded: there is no daemon here. Its export is a real tarball."""
    digest = registry.push(BASE, "for-docker:1")
    name = f"{registry.host}/for-docker@{digest}"
    archive = tmp_path / "export.tar"
    subprocess.run(["tar", "-C", str(slim), "-c", "-f", str(archive), "."], check=True)
    pulled: list[bool] = []

    class Docker(LocalShell):
        asked: list[tuple[str, ...]] = []  # noqa: RUF012 - of one test

        def answer(self, argv: Sequence[str]) -> Result:
            self.asked.append(tuple(argv))
            if argv[1] == "info":
                return Result(tuple(argv), 0, '{"ServerVersion": "27"}', "")
            if argv[1:3] == ["image", "inspect"]:
                image = '[{"Id": "sha256:%s", "Config": {"Env": ["A=b"]}}]' % ("c" * 64)
                missing = Result(tuple(argv), 1, "[]", "Error: No such image: x")
                return Result(tuple(argv), 0, image, "") if pulled else missing
            if argv[1] == "pull":
                pulled.append(True)
            return Result(tuple(argv), 0, "", "")

        def run(self, argv, **options):  # type: ignore[no-untyped-def]
            return self.answer(argv) if argv[0] == "docker" else super().run(argv, **options)

        def stream(self, argv, on_text=None, *, source=None, **options):  # type: ignore[no-untyped-def]
            if source is not None:
                self.asked.append(tuple(source))
                source = ["cat", str(archive)]
            elif argv[0] == "docker":
                result = self.answer(argv)
                if on_text is not None:
                    on_text("out", result.stdout)
                    on_text("err", result.stderr)
                return result
            return super().stream(argv, on_text, source=source, **options)

    shell = Docker()
    request = ImportRequest(f"{registry.host}/for-docker:1", tmp_path, engine="docker")
    made = import_image(request, store, shell, Silent())
    assert cat(made.entry.path, "etc/environment") == "A=b\n"
    verbs = [argv[1] for argv in shell.asked]
    assert verbs == ["info", "image", "pull", "image", "create", "export", "rm", "image"]
    assert shell.asked[2][-1] == name
    assert shell.asked[-1] == ("docker", "image", "rm", name)


# ---- engines


@pytest.mark.parametrize("engine", [None, "buildah"])
def test_an_image_of_podman(home: EngineHome, store: Store, engine: str | None) -> None:
    images, containers = home.images(), home.containers()
    made = take(store, f"podman://{BASE}", engine=engine)
    assert "usr/bin/bash" in listing(made.entry.path)
    assert made.entry.names == ("localhost+launcher-test-base+1++podman",)
    identity = home.podman("image", "inspect", "--format", "{{.Id}}", BASE)
    assert made.entry.manifest is not None
    assert made.entry.manifest.source is not None
    assert made.entry.manifest.source.digest == f"sha256:{identity}"
    by_id = take(store, f"podman://{identity}", name="by-id")
    assert by_id.reused
    assert set(by_id.entry.names) == {"by-id", *made.entry.names}
    assert (home.images(), home.containers()) == (images, containers)


def test_images_that_no_engine_has(home: EngineHome, store: Store) -> None:
    with pytest.raises(ImageError, match="podman has no image"):
        take(store, "podman://localhost/nobody/has:this")
    with pytest.raises(ImageError, match="cannot be read with docker"):
        take(store, f"podman://{BASE}", engine="docker")
    with pytest.raises(OutsideError, match="docker does not work here"):
        import_image(ImportRequest("dockerd://x", Path("/")), store, Recorder(), Silent())


# ---- files


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".xz"])
def test_a_root_file_system(home: EngineHome, slim: Path, store: Store, tmp_path: Path, suffix: str) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (slim / "etc").iterdir())
    directory = take(store, str(slim), name="one").entry
    packer = {"": None, ".gz": "--gzip", ".zst": "--zstd", ".xz": "--xz"}[suffix]
    tarball = tmp_path / f"root.tar{suffix}"
    argv = ["tar", *([packer] if packer else []), "-C", str(slim), "-c", "-f", str(tarball), "."]
    subprocess.run(argv, check=True, env={**os.environ, "XZ_OPT": "-0"})
    # In a store of its own: the same files packed within one second are the same image, and the first one's manifest.
    made = take(Store(tmp_path / "other"), f"./{tarball.name}", directory=str(tmp_path))
    assert made.entry.names == (tarball.name,)
    assert listing(made.entry.path) == listing(directory.path)
    assert cat(made.entry.path, "etc/environment").startswith("PATH=")
    assert cat(made.entry.path, "etc/fstab") == ""
    assert made.entry.manifest is not None
    assert made.entry.manifest.source is not None
    assert made.entry.manifest.source.kind == "tarball"
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (slim / "etc").iterdir()) == before


def test_what_is_not_a_root_file_system(home: EngineHome, slim: Path, store: Store, tmp_path: Path) -> None:
    def refused(source: str) -> str:
        with pytest.raises(ImageError) as caught:
            take(store, source)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    assert "it holds nothing" in refused(f"{tmp_path}/empty")
    (tmp_path / "empty/bin").symlink_to("/usr/bin")
    assert "no /bin/sh" in refused(f"{tmp_path}/empty"), "the machine's own programs do not count"
    outer = tmp_path / "outer.tar"
    subprocess.run(["tar", "-C", str(slim.parent), "-c", "-f", str(outer), slim.name], check=True)
    assert f"below {slim.name}/" in refused(str(outer))
    saved = tmp_path / "saved.tar"
    home.podman("save", "--output", str(saved), BASE)
    assert "podman load --input saved.tar" in refused(str(saved))
    (tmp_path / "notes.tar").write_text("x" * 1000)
    assert "neither a squashfs file nor a tarball" in refused(f"{tmp_path}/notes.tar")
    assert "does not exist" in refused(f"{tmp_path}/nothing.sqsh")
    assert not store.entries()


def test_a_squashfs_file(image_file: Path, store: Store, tmp_path: Path) -> None:
    image = shutil.copy(image_file, tmp_path / "given.sqsh")
    made = take(store, "./given.sqsh", directory=str(tmp_path))
    assert made.entry.names == ("given",)
    assert made.entry.path.read_bytes() == Path(image).read_bytes()
    assert made.entry.manifest is not None
    assert made.entry.manifest.environment["GREETING"] == "hello from the image"
    again = take(store, "./given.sqsh", directory=str(tmp_path), name="other")
    assert again.entry.digest == made.entry.digest
    (tmp_path / "cut.sqsh").write_bytes(Path(image).read_bytes()[:-100_000])
    with pytest.raises(ImageError, match=r"cut\.sqsh"):
        take(store, "./cut.sqsh", directory=str(tmp_path))


def test_requests_travel() -> None:
    request = ImportRequest("nvcr.io/nvidia/nemo:26.08", Path("/home"))
    assert pickle.loads(pickle.dumps(request)) == request  # noqa: S301


def test_wrong_requests(store: Store) -> None:
    with pytest.raises(ImageError, match="cannot import"):
        take(store, "debian", engine="kaniko")
    with pytest.raises(ImageError, match="unknown compression"):
        take(store, "debian", compression="zip")
