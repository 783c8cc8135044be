"""A small Hugging Face hub on 127.0.0.1: enough of its API for huggingface_hub, counted requests, faults on demand."""

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.support.limits import seconds

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What it has, what was requested, and how it misbehaves.

    `models` and `datasets` hold repositories by name: file name to content. `status` answers a path's first requests
    with these statuses; `stalled` are file names whose body stops half way until `go_on` is set; `torn` those whose
    body ends half way. With `token` only requests that carry it are answered.
    """

    port: int = 0
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    status: dict[str, list[int]] = field(default_factory=dict)
    stalled: set[str] = field(default_factory=set)
    torn: set[str] = field(default_factory=set)
    token: str | None = None
    go_on: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def bodies(self) -> Counter[str]:
        """How often the content of each file was asked for, by its name."""
        return Counter(self.order())

    def order(self) -> list[str]:
        """The files whose content was asked for, in that order."""
        return [path.rpartition("/")[2] for method, path in self.asked if method == "GET" and "/resolve/" in path]

    def wait_for(self, name: str, timeout_s: float = 60) -> None:
        """Wait until the content of the file `name` was asked for."""
        end = time.monotonic() + seconds(timeout_s)
        while not self.bodies()[name]:
            assert time.monotonic() < end, f"{name} was not asked for: {self.asked}"
            time.sleep(0.02)


@contextlib.contextmanager
def hub(**content: Any) -> Iterator[Hub]:
    """A hub that serves until the block ends."""
    state = Hub(**content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": state}))
    server.daemon_threads = True
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        state.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Answers(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self._answer(self.rfile.read(length))

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def _answer(self, body: bytes = b"") -> None:
        path = urlsplit(self.path).path.replace("%2F", "/")
        self.hub.asked.append((self.command, path))
        name = path.rpartition("/")[2]
        pending = next((faults for end, faults in self.hub.status.items() if path.endswith(end) and faults), None)
        if pending:
            self._error(pending.pop(0))
        elif self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._error(401, "GatedRepo")
        elif path.startswith("/api/"):
            self._api(path.split("/")[2:], body)
        else:
            self._file(path, name)

    def _api(self, parts: list[str], body: bytes) -> None:
        kind, repo, rest = parts[0], "/".join(parts[1:3]), parts[3:]
        files = getattr(self.hub, kind, {}).get(repo)
        if files is None:
            self._error(404, "RepoNotFound")
        elif rest[:1] == ["tree"]:
            below = "/".join(rest[2:])
            found = [_entry(name, text) for name, text in files.items() if name.startswith(below)]
            self._json(found if found or not below else None)
        elif rest[:1] == ["paths-info"]:
            wanted = [one.rpartition("=")[2] for one in body.decode().split("&")] if body else []
            named = json.loads(body)["paths"] if body[:1] == b"{" else wanted
            self._json([_entry(name, files[name]) for name in named if name in files])
        else:
            siblings = [{"rfilename": name, "size": len(text)} for name, text in files.items()]
            self._json({"id": repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})

    def _file(self, path: str, name: str) -> None:
        repo, _, rest = path.strip("/").partition("/resolve/")
        kind = self.hub.datasets if repo.startswith("datasets/") else self.hub.models
        files = kind.get(repo.removeprefix("datasets/"))
        if files is None:
            return self._error(404, "RepoNotFound")
        content = files.get(rest.partition("/")[2])
        if content is None:
            return self._error(404, "EntryNotFound")
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return None
        half = len(content) // 2
        self._write(content[:half])
        if name in self.hub.stalled:
            self.hub.go_on.wait(120)
        if name in self.hub.torn:
            self.close_connection = True
        else:
            self._write(content[half:])
        return None

    def _write(self, content: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # who asked was killed
            self.wfile.write(content)
            self.wfile.flush()

    def _json(self, value: Any) -> None:
        if value is None:
            return self._error(404, "EntryNotFound")
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self._write(content)
        return None

    def _error(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"{code} says the test's hub")
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}  # noqa: S324
