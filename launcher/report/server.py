"""A read-only web server of runs: a list with a filter, and the page of each run, which follow what goes on.

Python's own HTTP server is enough: a few people read pages, nothing is written, and no dependency is added. What
protects the runs:

- It listens on the loopback interface unless it is allowed to do more.
- Every address begins with a token of 256 bits, compared in constant time. It is made anew at each start and is in no
  option, variable, file or log. A cookie would be sent to every other port of this machine, a path is not.
- The host that a browser asks for must be this machine's: a page of another site cannot read runs by letting its name
  resolve to this address (DNS rebinding).
- A run is looked up in the list of runs by names that must be equal: no path is made from what a browser sends.
- Pages run no scripts but the server's own, are in no frame, and send no address on.

Nothing is read of a run while no page of it is open: there is no work beside the answers.
"""

import hmac
import http.server
import json
import secrets
import socket
import socketserver
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from launcher._util.errors import LauncherError, RequestError, explained
from launcher._util.resources import resource
from launcher._util.shell import Shell
from launcher._util.version import __version__
from launcher.report.page.content import Block, Cell, Section, Subject, Table, Text
from launcher.report.page.overview import format_time, tone_of
from launcher.report.page.render import Served, plotly_js, render
from launcher.report.page.sections import sections_of
from launcher.rundir import RunDirectory
from launcher.rundir.finding import iterate_runs, listed_run, scan
from launcher.watch.status import status_of
from launcher.watch.status_table import row

LISTED = 200
"""Limit of runs in the list, the newest."""
LIST_S = 15.0
"""The list is made anew after so many seconds: what Slurm says of waiting jobs is in no file."""
TIMEOUT_S = 30.0
"""How long a browser may take for its request."""
_KEPT = 16
"""Limit of pages in memory."""
_AT_ONCE = 16
"""Limit of requests that are answered at the same time."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_SCRIPT, _PAGE, _VALUES = "text/javascript; charset=utf-8", "text/html; charset=utf-8", "application/json"
_COLUMNS = ("Run", "State", "Iteration", "Loss", "s/iteration", "Left", "Elapsed", "Job", "Nodes", "Detail")
_NUMERIC = frozenset({"Iteration", "Loss", "s/iteration", "Left", "Elapsed", "Nodes"})


@dataclass(frozen=True)
class WebAnswer:
    """What a browser gets."""

    body: bytes
    kind: str = _PAGE
    status: HTTPStatus = HTTPStatus.OK
    kept_s: int = 0
    """How long the browser may keep it."""


@dataclass
class RunSite:
    """The pages of the runs below some run roots, by their addresses below the token."""

    roots: tuple[Path, ...]
    shell: Shell
    clock: Callable[[], float] = time.time
    _pages: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    _making: dict[str, threading.Lock] = field(default_factory=dict)
    """By page: the lock under which it is made."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """That of the two above."""

    def answer(self, path: str) -> WebAnswer | None:
        """Return the answer to an address, which begins with a slash; None where there is no such page."""
        parts = [unquote(part) for part in path.split("/")[1:]]
        match parts:
            case [""]:
                return self._page("", self.version_of_list(), self._list)
            case ["state"]:
                return _state(self.version_of_list())
            case ["static", name] if name in _STATIC:
                return WebAnswer(_static(name), _SCRIPT, kept_s=3600)
            case ["run", number, name, run_id, last] if last in ("", "state"):
                run = self._run(number, name, run_id)
                if run is None:
                    return None
                version = version_of(run, self.clock())
                if last:
                    return _state(version)
                return self._page(path, version, lambda: self._run_page(run, version))
        return None

    def _run(self, number: str, name: str, run_id: str) -> RunDirectory | None:
        """Return the run of these names: nothing is looked up but what the list of a run root has."""
        root = {str(index): root for index, root in enumerate(self.roots)}.get(number)
        return None if root is None else listed_run(root, name, run_id)

    def _page(self, key: str, version: str, make: Callable[[], str]) -> WebAnswer:
        """Return a page; the same version is made once for all browsers, beside those of other pages."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            kept = self._pages.get(key)
            if kept is None or kept[0] != version:
                kept = (version, make().encode())
                self._keep(key, kept)
        return WebAnswer(kept[1])

    def _keep(self, key: str, page: tuple[str, bytes]) -> None:
        with self._lock:
            self._pages.pop(key, None)
            self._pages[key] = page
            while len(self._pages) > _KEPT:
                oldest = next(iter(self._pages))
                del self._pages[oldest]
                self._making.pop(oldest, None)

    def _run_page(self, run: RunDirectory, version: str) -> str:
        subject = Subject(run, self.shell, self.clock())
        title = f"{run.path.parent.name}/{run.path.name}"
        served = Served("../../../../", version, home="../../../../")
        return render(title, sections_of(subject), made=format_time(subject.now), served=served)

    def version_of_list(self) -> str:
        """Return what changes when the list does: when there are other runs, and every few seconds."""
        ids = "\n".join(f"{name}/{run_id}" for root in self.roots for name, run_id in scan(root)[:LISTED])
        return f"{zlib.crc32(ids.encode()):08x}-{int(self.clock() / LIST_S)}"

    def _list(self) -> str:
        now = self.clock()
        found = [(number, run) for number, root in enumerate(self.roots) for run in _newest(root)]
        found = sorted(found, key=lambda pair: pair[1].path.name, reverse=True)[:LISTED]
        statuses, answer = status_of([run for _, run in found], self.shell)
        rows: list[tuple[str | Cell, ...]] = []
        for (number, run), status in zip(found, statuses, strict=True):
            name, job, nodes, phase, iteration, loss, seconds, left, elapsed, _limit, detail = row(status, now)
            address = "/".join(["run", str(number), *(quote(each, safe="") for each in run.path.parts[-2:]), ""])
            state = Cell(phase, tone=tone_of(status.phase))
            rows.append((Cell(name, address), state, iteration, loss, seconds, left, elapsed, job, nodes, detail))
        blocks: list[Block] = [Table("Runs", _COLUMNS, tuple(rows), _NUMERIC, sortable=True)]
        if len(rows) == LISTED:
            blocks.append(Text(f"These are the newest {LISTED} runs."))
        if not rows:
            blocks = [Text(f"There are no runs in {', '.join(map(str, self.roots))}.")]
        if answer.unreachable:
            blocks.append(Text(f"Slurm did not answer: {answer.unreachable}", "warning"))
        version, below = self.version_of_list(), ", ".join(map(str, self.roots))
        served = Served("", version)
        return render("Runs", [Section("runs", f"Below {below}", tuple(blocks))], made=format_time(now), served=served)


def _newest(root: Path) -> list[RunDirectory]:
    found = []
    for run in iterate_runs([root]):
        found.append(run)
        if len(found) == LISTED:
            break
    return found


def version_of(run: RunDirectory, now: float) -> str:
    """Return what changes when the page of a run does, from names, sizes and times of its files alone.

    Of a run that has not ended it also changes every minute: what Slurm says of its job is in no file.
    """
    attempts = run.attempts()
    paths = [run.plan_file, run.journal_file, run.lease, run.ended_jobs]
    if attempts:
        newest = attempts[-1]
        paths += [newest.metrics, newest.timeline, newest.result_file, newest.next_file, newest.stop, newest.config]
        paths += [newest.stacks, newest.network, newest.telemetry, newest.profiles]
    seen = []
    for path in paths:
        try:
            found = path.stat()
            seen.append(f"{found.st_size}:{found.st_mtime_ns}")
        except OSError:
            seen.append("-")  # not there yet, which is part of the version
    is_over = bool(attempts) and attempts[-1].result_file.exists() and not run.lease.exists()
    minute = "over" if is_over else str(int(now / 60))
    return f"{len(attempts)}-{zlib.crc32(' '.join(seen).encode()):08x}-{minute}"


def _state(version: str) -> WebAnswer:
    return WebAnswer(json.dumps({"version": version}).encode(), _VALUES)


_STATIC: Mapping[str, Callable[[], str]] = {
    "plotly.js": plotly_js,
    "page.js": lambda: (resource("templates") / "page.js").read_text(encoding="utf-8"),
    "live.js": lambda: (resource("templates") / "live.js").read_text(encoding="utf-8"),
}
_scripts: dict[str, bytes] = {}


def _static(name: str) -> bytes:
    if name not in _scripts:
        _scripts[name] = _STATIC[name]().encode()
    return _scripts[name]


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """The server, bound and not yet answering. Raises RequestError where it cannot be bound, or may not."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(
        self, site: RunSite, host: str = "127.0.0.1", port: int = 0, *, remote: bool = False, names: Sequence[str] = ()
    ) -> None:
        self.site = site
        self.token = secrets.token_urlsafe(32)
        self.host = host
        self.names = frozenset(name.lower() for name in (*_LOOPBACK, host, *names))
        self.slots = threading.BoundedSemaphore(_AT_ONCE)
        if not remote and not is_loopback(host):
            raise RequestError(
                f"{host} can be reached from other machines, and the pages are not encrypted",
                where="--host",
                hint="Forward a port of this machine (ssh -L), or allow it with --allow-remote.",
            )
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise RequestError(f"cannot listen on {host}, port {port}: {why}", where="--port") from error

    @property
    def port(self) -> int:
        """Return the port on which it listens."""
        return int(self.socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Return the address of the list, which holds the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/{self.token}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a connection that broke: a browser that closes a page is not an error."""
        del request, client_address


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address. A name other than `localhost` may mean any."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    timeout = TIMEOUT_S
    server_version = "launcher"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a request for a page."""
        if not self.server.slots.acquire(timeout=TIMEOUT_S):
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
            return
        try:
            self._answer()
        finally:
            self.server.slots.release()

    do_HEAD = do_GET  # noqa: N815 - as above

    def _answer(self) -> None:
        if not self._is_meant():
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
            return
        token, slash, rest = urlsplit(self.path).path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(errors="replace"), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN)
            return
        try:
            answer = self.server.site.answer(f"/{rest}") if slash else None
        except Exception as error:  # a browser that gets nothing would take the server for ended
            found = error if isinstance(error, LauncherError) else explained(error)
            words = found.message.encode(errors="replace")
            answer = WebAnswer(words, "text/plain; charset=utf-8", HTTPStatus.INTERNAL_SERVER_ERROR)
        if answer is None:
            self._refuse(HTTPStatus.NOT_FOUND)
        else:
            self._send(answer)

    def _is_meant(self) -> bool:
        """Return whether the request names this machine; a browser states what stood in its address bar."""
        hosts = self.headers.get_all("Host", [])
        try:
            name = urlsplit(f"//{hosts[0]}").hostname if len(hosts) == 1 else None
        except ValueError:
            return False
        return name is not None and name.lower() in self.server.names

    def _refuse(self, status: HTTPStatus) -> None:
        self._send(WebAnswer(f"{status.value} {status.phrase}\n".encode(), "text/plain; charset=utf-8", status))

    def _send(self, answer: WebAnswer) -> None:
        self.send_response(answer.status)
        kept = f"private, max-age={answer.kept_s}" if answer.kept_s else "no-store"
        headers = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body)), "Cache-Control": kept}
        for name, value in {**headers, **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is not a request for a page, without repeating what was sent."""
        del message, explain
        self.close_connection = True
        self._refuse(HTTPStatus(code) if code != HTTPStatus.NOT_IMPLEMENTED else HTTPStatus.METHOD_NOT_ALLOWED)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server uses
        """Write no log: the address of each request holds the token."""

    def version_string(self) -> str:
        """Return what the server calls itself."""
        return f"launcher/{__version__}"
