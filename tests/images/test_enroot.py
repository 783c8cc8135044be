"""enroot: its command lines and environment recorded, and the real one where it is installed."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from launcher._util.errors import CommandError, ImageError, LauncherError, OutsideError
from launcher._util.shell import LocalShell, Result
from launcher.images.build import enroot, pack
from launcher.images.build.enroot import Settings, settings_for
from launcher.images.build.layout import ImageConfig, Layout, rc_script
from launcher.images.build.pack import Compression
from launcher.images.build.pulling import EnrootPull
from launcher.images.build.transfers import fetch_error, transient_reason, with_retries
from launcher.images.reference import parse_reference
from tests.images.test_build import Recorded
from tests.support.recorder import Recorder

REFERENCE = parse_reference("nvcr.io/nvidia/nemo:26.08")
DIGEST = "sha256:" + "a" * 64


def said(stdout: str = "", status: int = 0, stderr: str = "") -> Callable[[Sequence[str]], Result]:
    return lambda argv: Result(tuple(argv), status, stdout, stderr)


def test_command_lines() -> None:
    shell = Recorder({"enroot": said(f"4.1.2\n{DIGEST}")})
    assert enroot.version(shell) == (4, 1, 2)
    enroot.import_image("docker://x", Path("/o.sqsh"), shell, architecture="aarch64")
    assert enroot.digest("docker://x", shell, architecture="aarch64") == DIGEST
    assert [" ".join(argv[1:]) for argv in shell.asked] == [
        "version",
        "import --arch aarch64 --output /o.sqsh -- docker://x",
        "digest --arch aarch64 -- docker://x",
    ]


def test_settings_are_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ENROOT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ENROOT_ALLOW_HTTP", "yes")
    monkeypatch.setenv("ENROOT_MAX_CONNECTIONS", "3")
    env = Settings(tmp_path, Compression("zstd", 3), 5, allow_http=False).environment()
    assert {name: value for name, value in env.items() if name.startswith("ENROOT_")} == {
        "ENROOT_TEMP_PATH": str(tmp_path),
        "ENROOT_SQUASH_OPTIONS": "-comp zstd -Xcompression-level 3 -b 1048576 -exit-on-error",
        "ENROOT_MAX_PROCESSORS": "5",
        "ENROOT_TRANSFER_RETRIES": "2",
        "ENROOT_MAX_CONNECTIONS": "3",
    }, "plain HTTP is never inherited"
    assert Settings(allow_http=True).environment()["ENROOT_ALLOW_HTTP"] == "yes"
    monkeypatch.setenv("ENROOT_TRANSFER_RETRIES", "7")
    assert Settings().environment()["ENROOT_TRANSFER_RETRIES"] == "7", "the user's own counts"
    monkeypatch.setenv("ENROOT_TEMP_PATH", "/scratch")
    assert settings_for(tmp_path, Compression("lz4"), allow_http=False).environment()["ENROOT_TEMP_PATH"] == "/scratch"


def test_older_versions_are_given_a_digest_in_their_way() -> None:
    shell = Recorder()
    assert EnrootPull(REFERENCE, (4, 0, 1), shell).uri(DIGEST) == f"docker://nvcr.io#nvidia/nemo@{DIGEST}"
    assert EnrootPull(REFERENCE, (3, 5, 0), shell).uri(DIGEST) == f"docker://nvcr.io#nvidia/nemo:{DIGEST}"
    assert EnrootPull(REFERENCE, (3, 5, 0), shell).uri(None) == "docker://nvcr.io#nvidia/nemo:26.08"


# What the programs say; the codes are in their own forms.
TRANSIENT = [
    "[ERROR] URL https://nvcr.io/v2/x/manifests/1 returned error code: 429 ",
    "[ERROR] URL https://nvcr.io/v2/x/manifests/1 returned error code: 503 Service Unavailable",
    "curl: (22) The requested URL returned error: 502",
    "curl: (56) Recv failure: Connection reset by peer",
    "curl: (18) transfer closed with 1234 bytes remaining to read",
    "curl: (28) Operation timed out after 30000 milliseconds",
    "curl: (7) Failed to connect to nvcr.io port 443: Connection refused",
    "Checksum mismatch: 0123",
    "Error: reading manifest 1 in nvcr.io/x: received unexpected HTTP status: 500 Internal Server Error",
    "Error: initializing source: invalid status code from registry 429 (Too Many Requests)",
    "toomanyrequests: You have reached your pull rate limit.",
    "Error: copying system image: writing blob: unexpected EOF",
    "net/http: TLS handshake timeout",
]
PERMANENT = [
    ("[ERROR] URL https://nvcr.io/v2/x/manifests/1 returned error code: 401 Unauthorized", "refuses access"),
    ("curl: (22) The requested URL returned error: 403", "refuses access"),
    ("[ERROR] URL https://nvcr.io/v2/x/manifests/1 returned error code: 404 Not Found", "no such image"),
    ("Error: reading manifest 9 in nvcr.io/x: manifest unknown: manifest unknown", "no such image"),
    ("Error: reading manifest: unauthorized: authentication required", "refuses access"),
    ("Error response from daemon: pull access denied for x, repository does not exist", "refuses access"),
    ("[INFO] Querying registry for permission grant\n[INFO] Authenticating with user: <anonymous>", "refuses access"),
    ("[INFO] Authenticating with user: me\n[INFO] Using credentials from file: /h/.credentials", "refuses access"),
    ("curl: (6) Could not resolve host: nvcr.example", "was not found"),
    ("[ERROR] Command not found: jq", "could not be fetched"),
]


@pytest.mark.parametrize("words", TRANSIENT)
def test_transient_failures(words: str) -> None:
    assert transient_reason(words)
    error = fetch_error(words, REFERENCE, "enroot")
    assert isinstance(error, OutsideError)
    assert words.strip() in str(error)


@pytest.mark.parametrize(("words", "meaning"), PERMANENT)
def test_permanent_failures_end_at_once_with_what_to_do(words: str, meaning: str) -> None:
    assert transient_reason(words) is None
    calls = []

    def fail() -> None:
        calls.append(1)
        raise CommandError(f"enroot import x ended with status 1: [INFO] hello\n{words}")

    with pytest.raises(LauncherError, match=meaning) as caught:
        with_retries(fail, REFERENCE, "enroot", Recorded(), sleep=lambda _: None)
    assert len(calls) == 1
    assert words in caught.value.message
    if meaning == "refuses access":
        assert isinstance(caught.value, ImageError)


def test_where_credentials_belong_and_how_a_line_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".credentials").write_text("machine nvcr.io login $oauthtoken password s3cr3t\n")
    monkeypatch.setenv("ENROOT_CONFIG_PATH", str(tmp_path))
    hint = fetch_error("error code: 401", REFERENCE, "enroot").hint or ""
    assert f"{tmp_path}/.credentials" in hint
    assert "machine nvcr.io login $oauthtoken password PASSWORD" in hint
    assert "machine authn.nvidia.com login $oauthtoken password PASSWORD" in hint
    assert "s3cr3t" not in hint
    monkeypatch.delenv("ENROOT_CONFIG_PATH")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    hub = fetch_error("error code: 401", parse_reference("debian"), "enroot").hint or ""
    assert "~/.config/enroot/.credentials" in hub
    assert "machine registry-1.docker.io login USER" in hub
    assert fetch_error("error code: 401", REFERENCE, "podman").hint == "Log in: `podman login nvcr.io`."


def test_attempts_are_bounded_and_said() -> None:
    told, slept = Recorded(), list[float]()

    def fail() -> None:
        raise CommandError(TRANSIENT[0])

    with pytest.raises(OutsideError, match="too many requests") as caught:
        with_retries(fail, REFERENCE, "enroot", told, waits_s=(1, 2), sleep=slept.append)
    assert slept == [1, 2]
    assert told.lines == [
        "too many requests (429): attempt 2 of 3 in 1 s",
        "too many requests (429): attempt 3 of 3 in 2 s",
    ]
    assert "without login" in (caught.value.hint or "").lower()


# ---- the real one


def test_a_container_of_the_real_enroot(enroot_program: str, slim: Path, tmp_path: Path) -> None:
    shell = LocalShell()
    image = tmp_path / "work/image.sqsh"
    image.parent.mkdir()
    layout = Layout(
        {"etc/environment": "GREETING=hello from the image\n", "etc/rc": rc_script(ImageConfig(), "x"), "etc/fstab": ""}
    )
    pack.pack(slim, layout, image, Compression("lz4"), shell, Recorded())
    env = {**Settings(tmp_path, Compression("lz4")).environment(), "ENROOT_DATA_PATH": str(tmp_path / "data")}

    def call(*words: str) -> str:
        return shell.stream(["enroot", *words], env=env).stdout

    assert enroot.version(shell) > (3, 0)
    call("create", "--name", "one", "--", str(image))
    with pytest.raises(CommandError, match="File already exists"):
        call("create", "--name", "one", "--", str(image))
    assert call("list").split() == ["one"]
    command = ["sh", "-c", 'echo "$GREETING|$A"; echo new > /new']
    assert call("start", "--env", "A=x y", "--rw", "--root", "--", "one", *command) == "hello from the image|x y\n"
    with pytest.raises(CommandError, match="ended with status 3"):
        call("start", "--", "one", "sh", "-c", "exit 3")
    again = tmp_path / "again.sqsh"
    call("export", "--output", str(again), "--", "one")
    call("remove", "--force", "--", "one")
    assert call("list").split() == []
    call("create", "--name", "two", "--", str(again))
    assert (tmp_path / "data/two/new").read_text() == "new\n"
    call("remove", "--force", "--", "two")
