"""What is read of a registry's answers, and of answers that no registry gives: real HTTP on the loopback interface."""

import contextlib
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from launcher.images.build import registry
from launcher.images.reference import parse_reference
from tests.support.limits import seconds

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
WANTED = f"sha256:{'a' * 64}"


@contextlib.contextmanager
def serving(answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server that gives each request this answer; its host and port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with contextlib.suppress(OSError):  # the client does not wait for it
                answer(self)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reply(body: bytes, kind: str = MANIFEST, *, status: int = 200, length: int | None = None) -> Callable[..., None]:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body) if length is None else length))
        request.end_headers()
        request.wfile.write(body)

    return answer


def raw(text: bytes) -> Callable[..., None]:
    return lambda request: request.wfile.write(text)


def slowly(request: http.server.BaseHTTPRequestHandler) -> None:
    reply(b"{", length=10_000)(request)
    while True:
        request.wfile.write(b" ")
        time.sleep(0.2)


def index(*manifests: object) -> bytes:
    return json.dumps({"manifests": manifests}).encode()


def digest(answer: Callable[..., None]) -> str | None:
    with serving(answer) as host:
        return registry.digest_of(parse_reference(f"{host}/team/tool:1"), "x86_64")


def test_the_digest_of_a_manifest_is_that_of_its_bytes() -> None:
    body = b'{"schemaVersion": 2}'
    assert digest(reply(body)) == f"sha256:{hashlib.sha256(body).hexdigest()}"


def test_of_an_index_the_architecture_is_taken() -> None:
    mine = {"digest": WANTED, "platform": {"architecture": "amd64"}}
    other = {"digest": f"sha256:{'b' * 64}", "platform": {"architecture": "arm64"}}
    unknown = {"digest": f"sha256:{'c' * 64}"}  # an attestation, or an artefact
    null = {"digest": f"sha256:{'d' * 64}", "platform": None}
    assert digest(reply(index(unknown, null, other, mine), INDEX)) == WANTED
    assert digest(reply(index(unknown, other), INDEX)) is None


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<html>please log in</html>", "text/html"),
        reply(b"", status=404),
        reply(b"", status=500),
        reply(b'{"schemaVersion": 2}', length=1000),  # cut off, and yet whole JSON
        reply(b"[" * 100_000, INDEX),
        reply(b"null", INDEX),
        reply(b"[1]", INDEX),
        reply(index("text", None), INDEX),
        reply(index({"digest": "sha256:short", "platform": {"architecture": "amd64"}}), INDEX),
        reply(b"\xff\xfe\x00", INDEX),
        raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nshort"),
        raw(
            b'HTTP/1.1 401 x\r\nWWW-Authenticate: Bearer realm="http://example.invalid/t"\r\nContent-Length: 0\r\n\r\n'
        ),
        raw(b""),
    ],
    ids=range(15),
)
def test_what_is_not_an_answer_of_a_registry_leaves_the_digest_unknown(answer: Callable[..., None]) -> None:
    assert digest(answer) is None


def test_an_answer_that_comes_too_slowly_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_TIMEOUT_S", 1)
    begin = time.monotonic()
    assert digest(slowly) is None
    assert time.monotonic() - begin < seconds(10)


def test_an_answer_without_end_is_not_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_LIMIT", 1 << 20)
    assert digest(reply(b" " * (1 << 21))) is None
