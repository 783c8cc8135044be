"""From a Dockerfile to an image in the store, with real engines."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from launcher._util.errors import CommandError, ImageError
from launcher._util.shell import LocalShell
from launcher.api.progress import Silent
from launcher.contract.events import Unit
from launcher.images.build.build import BuildRequest, build
from launcher.images.store.store import Store
from tests.images.engine_home import BASE, EngineHome
from tests.support.limits import seconds

DOCKERFILE = f"""\
FROM {BASE} AS first
ARG GREETING=hello
ENV GREETING=$GREETING QUOTED='say "hi"' BLANKS=" b " API_TOKEN=not-in-the-manifest
RUN echo made > /etc/made && mkdir -p /opt/tools && ln -s /opt/tools /opt/link
FROM first AS second
COPY hello.txt /opt/tools/hello.txt
VOLUME /data
LABEL maker="somebody"
WORKDIR /opt/link/work dir
ENTRYPOINT ["/usr/bin/env", "-u", "OLDPWD"]
CMD ["sh", "-c", "echo \\"it's $PWD\\""]
"""


@dataclass
class Recorded:
    """A report that remembers."""

    stages: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    percent: list[int] = field(default_factory=list)

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def line(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, done: int, total: int | None, unit: Unit) -> None:
        assert (total, unit) == (100, "%")
        self.percent.append(done)


@pytest.fixture
def request_(home: EngineHome, tmp_path: Path) -> BuildRequest:
    context = tmp_path / "context of mine"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "hello.txt").write_text("hello\n")
    return BuildRequest(context / "Dockerfile", context, "megatron-lm:latest", engine="podman")


def cat(image: Path, name: str) -> str:
    return subprocess.run(["unsquashfs", "-cat", str(image), name], capture_output=True, text=True, check=True).stdout


def listing(image: Path) -> set[str]:
    words = subprocess.run(["unsquashfs", "-l", str(image)], capture_output=True, text=True, check=True).stdout
    return {line.removeprefix("squashfs-root/") for line in words.splitlines() if line.startswith("squashfs-root/")}


@pytest.mark.parametrize("engine", ["podman", "buildah"])
def test_an_unchanged_dockerfile_gives_the_same_image(
    home: EngineHome, request_: BuildRequest, store: Store, tmp_path: Path, engine: str
) -> None:
    first = build(replace(request_, engine=engine), store, LocalShell(), Silent())
    told = Recorded()
    again = build(replace(request_, engine=engine, name="other:1"), store, LocalShell(), told)
    assert again.reused
    assert again.entry.path == first.entry.path
    assert set(again.entry.names) == {"megatron-lm+latest", "other+1"}
    assert not any(stage.startswith("packing") for stage in told.stages), told.stages
    assert not build(replace(request_, engine=engine, compression="lz4"), store, LocalShell(), Silent()).reused
    # Another store packs the engine's image anew, to the same bytes.
    elsewhere = build(replace(request_, engine=engine), Store(tmp_path / "other"), LocalShell(), Silent())
    assert (elsewhere.reused, elsewhere.entry.digest) == (False, first.entry.digest)
    (request_.context / "hello.txt").write_text("hello, world\n")
    changed = build(replace(request_, engine=engine), store, LocalShell(), Silent())
    assert not changed.reused
    assert cat(changed.entry.path, "opt/tools/hello.txt") == "hello, world\n"
    assert changed.entry.names == ("megatron-lm+latest",)


@pytest.mark.parametrize("engine", ["podman", "buildah"])
def test_everything_of_a_dockerfile_arrives(
    home: EngineHome, request_: BuildRequest, store: Store, engine: str
) -> None:
    told = Recorded()
    made = build(replace(request_, engine=engine, build_args=(("GREETING", "good day"),)), store, LocalShell(), told)
    assert not made.reused
    image = made.entry.path
    assert image == store.image_path(made.entry.digest or "")
    assert made.entry.names == ("megatron-lm+latest",)
    environment = cat(image, "etc/environment").splitlines()
    assert environment[1:] == [
        "GREETING=good day",
        'QUOTED="say "hi""',
        'BLANKS=" b "',
        "API_TOKEN=not-in-the-manifest",
    ]
    assert cat(image, "etc/made") == "made\n"
    files = listing(image)
    assert {"opt/tools/hello.txt", "opt/tools/work dir", "opt/link", "etc/rc.local", "dev", "proc"} <= files
    assert not any(name.startswith(("dev/", "proc/")) for name in files)
    assert "/data /data none x-create=dir,bind,rw,nosuid,nodev" in cat(image, "etc/fstab")
    manifest = made.entry.manifest
    assert manifest is not None
    assert manifest.environment["GREETING"] == "good day"
    assert manifest.environment["QUOTED"] == 'say "hi"'
    assert manifest.environment["BLANKS"] == " b "
    assert manifest.environment["API_TOKEN"] is None
    assert (manifest.architecture, manifest.compression) == ("x86_64", "zstd:3")
    assert {engine, "mksquashfs"} <= set(manifest.tools)
    source = manifest.source
    assert source is not None
    assert (source.kind, source.dockerfile) == ("dockerfile", str(request_.dockerfile))
    assert source.build_args == {"GREETING": "good day"}
    assert any("step 3/" in stage and "COPY" not in stage for stage in told.stages), told.stages
    assert told.percent[-1] == 100
    assert "not-in-the-manifest" not in manifest.model_dump_json()


def test_a_container_starts_as_the_image_wants(request_: BuildRequest, store: Store, tmp_path: Path) -> None:
    image = build(request_, store, LocalShell(), Silent()).entry.path
    root = tmp_path / "unpacked"
    subprocess.run(
        ["unsquashfs", "-quiet", "-no-progress", "-dest", str(root), str(image)], check=True, stdout=subprocess.DEVNULL
    )
    argv = ["chroot", str(root), "/bin/sh", "/etc/rc"]

    def run(*words: str) -> str:
        return subprocess.run([*argv, *words], capture_output=True, text=True, check=True).stdout

    assert run() == "it's /opt/link/work dir\n"
    assert run("sh", "-c", 'echo "$1"', "sh", "two  words") == "two  words\n"
    (root / "etc/rc.local").write_text("cd /etc\n")
    assert run("pwd") == "/etc\n"


def test_the_target_is_built_and_no_other(request_: BuildRequest, store: Store) -> None:
    image = build(replace(request_, target="first"), store, LocalShell(), Silent()).entry.path
    assert "opt/tools/hello.txt" not in listing(image)
    assert cat(image, "etc/fstab") == ""


def test_what_was_there_before_is_there_afterwards(home: EngineHome, request_: BuildRequest, store: Store) -> None:
    """An image of the same name as the one that is built, and containers of other people."""
    home.podman("tag", BASE, "localhost/megatron-lm:latest")
    home.podman("create", "--name", "launcher-export-of-mine", BASE, "/bin/sh")
    try:
        images, names, containers, volumes = home.images(), home.names(), home.containers(), home.volumes()
        build(request_, store, LocalShell(), Silent())
        assert home.names() == names
        assert images <= home.images()
        assert home.containers() == containers
        assert home.volumes() == volumes
    finally:
        home.podman("rm", "launcher-export-of-mine")
        home.podman("untag", BASE, "localhost/megatron-lm:latest")


def test_wrong_requests(home: EngineHome, request_: BuildRequest, store: Store) -> None:
    context = request_.context

    def refused(**change: object) -> str:
        with pytest.raises(ImageError) as caught:
            build(replace(request_, **change), store, LocalShell(), Silent())  # type: ignore[arg-type]
        assert caught.value.exit_status == 2
        return str(caught.value)

    assert "the Dockerfile does not exist" in refused(dockerfile=context / "nope")
    assert "is a directory" in refused(dockerfile=context)
    assert "context does not exist" in refused(context=context / "nope")
    assert "context is not a directory" in refused(context=context / "hello.txt")
    words = refused(target="third")
    assert '"third" was not found' in words
    assert "FROM ... AS NAME" in words
    (context / "Dockerfile.wrong").write_text(f"FROM {BASE}\nFORM y\n")
    assert "FORM" in refused(dockerfile=context / "Dockerfile.wrong").upper()
    secret = refused(build_args=(("HF_TOKEN", "hf_abc"),))
    assert "build secret" in secret
    assert "hf_abc" not in secret
    assert "Use zstd" in refused(compression="zip")
    assert "no level '99'" in refused(compression="zstd:99")
    assert "does not name an image" in refused(name="Not A Name")
    assert not store.entries()


def test_a_build_that_fails_has_the_last_words_of_its_programs(request_: BuildRequest, store: Store) -> None:
    (request_.context / "Dockerfile").write_text(f"FROM {BASE}\nRUN echo the reason is here; exit 7\n")
    with pytest.raises(CommandError, match="the reason is here") as caught:
        build(request_, store, LocalShell(), Silent())
    assert caught.value.where == str(request_.dockerfile)
    assert not store.entries()
    assert not any(store.partial.iterdir())


def test_a_build_secret_is_read_and_stays_out(request_: BuildRequest, store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cr3t-value")
    line = 'RUN --mount=type=secret,id=HF_TOKEN test "$(cat /run/secrets/HF_TOKEN)" = s3cr3t-value && touch /read'
    (request_.context / "Dockerfile").write_text(f"FROM {BASE}\n{line}\n")
    entry = build(replace(request_, secrets=(("HF_TOKEN", secret),)), store, LocalShell(), Silent()).entry
    assert "read" in listing(entry.path)
    assert not any("HF_TOKEN" in name for name in listing(entry.path))
    assert b"s3cr3t" not in entry.path.read_bytes()


def test_requests_travel(request_: BuildRequest) -> None:
    assert pickle.loads(pickle.dumps(request_)) == request_  # noqa: S301


CALLER = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from launcher._util.errors import LauncherError
    from launcher.images.build.build import BuildRequest, build
    from launcher.images.store.store import Store
    from launcher._util.shell import LocalShell

    class Recorded:
        def stage(self, text): print("stage", text, flush=True)
        def line(self, text): print("line", text, flush=True)
        def progress(self, done, total, unit): print("progress", done, flush=True)

    context = Path(sys.argv[1])
    request = BuildRequest(context / "Dockerfile", context, "x:1", engine=sys.argv[3])
    try:
        made = build(request, Store(Path(sys.argv[2])), LocalShell(), Recorded())
        print("made", made.entry.digest, made.reused, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    """
)


def processes_with(text: str) -> list[str]:
    """The command lines of all processes that name `text`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in words and str(os.getpid()) != path.parent.name:
            found.append(words)
    return found


def mounts_below(*directories: Path) -> list[str]:
    """What is mounted there."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line for line in lines if any(str(directory) in line for directory in directories)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize(
    ("moment", "engine"), [("line working", "podman"), ("stage unpacking", "buildah"), ("stage packing", "podman")]
)
def test_nothing_is_left_of_a_build_that_is_ended(
    home: EngineHome, request_: BuildRequest, store: Store, number: signal.Signals, moment: str, engine: str
) -> None:
    slow = "RUN echo working; sleep 30" if moment == "line working" else "RUN echo quick"
    (request_.context / "Dockerfile").write_text(f"FROM {BASE}\nRUN echo {number} {moment}\n{slow}\n")
    before = home.containers()
    mounts = mounts_below(home.directory, store.root)
    argv = [sys.executable, "-c", CALLER, str(request_.context), str(store.root), engine]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen: list[str] = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith(moment):
                break
        else:
            pytest.fail(f"it ended before {moment!r}: {''.join(seen)}")
        process.send_signal(number)
        rest = process.stdout.read()
    assert ("interrupted" in rest) == (number == signal.SIGINT), rest
    end = time.monotonic() + seconds(15)
    while (left := processes_with(str(store.root)) + processes_with(str(request_.context))) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left
    assert not store.entries()
    if number == signal.SIGKILL:
        # The next build clears up, whatever it builds.
        (request_.context / "Dockerfile").write_text(f"FROM {BASE}\nRUN echo next\n")
        build(replace(request_, name="x:1", engine=engine), store, LocalShell(), Silent())
    assert home.containers() == before
    assert not any(store.partial.iterdir())
    assert mounts_below(home.directory, store.root) == mounts


def test_eight_processes_at_once_make_one_build(home: EngineHome, request_: BuildRequest, store: Store) -> None:
    argv = [sys.executable, "-c", CALLER, str(request_.context), str(store.root), "podman"]
    processes = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    outputs = [process.communicate(timeout=seconds(120))[0] for process in processes]
    made = [line.split() for output in outputs for line in output.splitlines() if line.startswith("made")]
    assert len(made) == 8, outputs
    assert len({digest for _, digest, _ in made}) == 1
    assert sorted(reused for _, _, reused in made) == ["False"] + ["True"] * 7
    assert sum("stage building" in output for output in outputs) == 1
    assert len(store.entries()) == 1


@pytest.mark.soak
def test_a_base_of_debian_with_python(home: EngineHome, debian: Path, request_: BuildRequest, store: Store) -> None:
    """The real thing, larger: what is installed in the image is found and runs."""
    name = "localhost/launcher-test-debian:1"
    archive = home.directory / "debian.tar"
    subprocess.run(["tar", "-C", str(debian), "--exclude=./dev/*", "-c", "-f", str(archive), "."], check=True)
    home.podman("import", "--quiet", str(archive), name)
    archive.unlink()
    (request_.context / "Dockerfile").write_text(f"FROM {name}\nRUN python3 -c 'print(6 * 7)' > /answer\n")
    entry = build(replace(request_, compression="lz4"), store, LocalShell(), Silent()).entry
    assert cat(entry.path, "answer") == "42\n"
    assert entry.manifest is not None
    assert (entry.manifest.compression, entry.manifest.contents.python) == ("lz4", "/usr/bin/python3")
    home.podman("rmi", "--force", name)
