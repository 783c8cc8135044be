"""A real registry on this machine, and one in front of it that fails on demand."""

import base64
import contextlib
import http.client
import http.server
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.limits import seconds

CONFIG = """\
version: 0.1
log:
  accesslog:
    disabled: true
  level: error
storage:
  filesystem:
    rootdirectory: {root}
http:
  addr: 127.0.0.1:{port}
"""


@dataclass
class Registry:
    """A registry without users."""

    port: int
    log: Path

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def push(self, image: str, name: str, form: str = "v2s2") -> str:
        """Push an image of podman's under `name` (path:tag); return its digest in the registry.

        `form` is docker's format or `oci`, of which this registry answers 404 to enroot, which does not ask for it.
        """
        argv = [
            "podman",
            "push",
            "--quiet",
            f"--format={form}",
            "--tls-verify=false",
            image,
            f"docker://{self.host}/{name}",
        ]
        subprocess.run(argv, check=True, capture_output=True)
        path, tag = name.split(":")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds(10))
        with contextlib.closing(connection):
            accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
            connection.request("HEAD", f"/v2/{path}/manifests/{tag}", headers={"Accept": accept})
            return connection.getresponse().headers["Docker-Content-Digest"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def running_registry(directory: Path) -> Iterator[Registry]:
    """Debian's docker-registry on a free port of the loopback interface."""
    registry = Registry(free_port(), directory / "log")
    config = directory / "config.yml"
    config.write_text(CONFIG.format(root=directory / "data", port=registry.port))
    with registry.log.open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        end = time.monotonic() + seconds(20)
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", registry.port), timeout=1):
                break
            assert process.poll() is None, registry.log.read_text()
            assert time.monotonic() < end, "the registry does not answer"
            time.sleep(0.05)
        yield registry
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True)
class Status:
    """Answer with this code instead."""

    code: int
    headers: tuple[tuple[str, str], ...] = ()


class Cut:
    """Send the headers and half of the body, then close the connection."""


class Stall:
    """Send the headers and half of the body, then nothing more until the server ends."""


Fault = Status | Cut | Stall | None


@dataclass
class Broken:
    """A registry in front of another: `fault(method, path)` decides what goes wrong with a request."""

    fault: Callable[[str, str], Fault] = lambda *_: None
    login: str | None = None
    """`user:password`, which each request must have (Basic authentication); None: no request needs it."""
    over: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str]] = field(default_factory=list)
    port: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def blobs(self) -> list[str]:
        """Which layers and configs were asked for."""
        return [path for method, path in self.asked if method == "GET" and "/blobs/" in path]


def times(count: int, fault: Fault, part: str = "/") -> Callable[[str, str], Fault]:
    """A fault for the first `count` requests whose path has `part` in it (the greeting /v2/ left out)."""
    left = [count]

    def decide(method: str, path: str) -> Fault:
        if path.rstrip("/") == "/v2" or part not in path or left[0] == 0:
            return None
        left[0] -= 1
        return fault

    return decide


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, broken: Broken, behind: Registry, *request: Any) -> None:
        self.broken, self.behind = broken, behind
        super().__init__(*request)

    def do_GET(self) -> None:  # the server's name for it
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.broken.asked.append((self.command, self.path))
        if self.broken.login is not None and self.headers.get("Authorization") != _basic(self.broken.login):
            challenge = ("WWW-Authenticate", 'Basic realm="tests"')
            version = ("Docker-Distribution-Api-Version", "registry/2.0")
            self.reply(401, (challenge, version, ("Content-Length", "0")), b"")
            return
        fault = self.broken.fault(self.command, self.path)
        if isinstance(fault, Status):
            self.reply(fault.code, (*fault.headers, ("Content-Length", "0")), b"")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.behind.port, timeout=seconds(30))
        with contextlib.closing(connection):
            connection.request(
                self.command, self.path, headers={"Accept": ", ".join(self.headers.get_all("Accept", []))}
            )
            reply = connection.getresponse()
            content = reply.read() if self.command == "GET" else b""
        kept = ("content-type", "docker-content-digest", "content-length", "docker-distribution-api-version")
        headers = tuple((name, value) for name, value in reply.getheaders() if name.lower() in kept)
        self.reply(reply.status, headers, content[: len(content) // 2] if isinstance(fault, Cut | Stall) else content)
        if isinstance(fault, Stall):
            self.wfile.flush()
            self.broken.over.wait(seconds(300))
            self.close_connection = True
        elif isinstance(fault, Cut):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def reply(self, status: int, headers: tuple[tuple[str, str], ...], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _basic(login: str) -> str:
    return f"Basic {base64.b64encode(login.encode()).decode()}"


@contextlib.contextmanager
def broken_registry(behind: Registry) -> Iterator[Broken]:
    """Serves until the block ends."""
    broken = Broken()

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that was ended in the middle

    server = Server(("127.0.0.1", 0), lambda *request: _Handler(broken, behind, *request))
    broken.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield broken
    finally:
        broken.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
