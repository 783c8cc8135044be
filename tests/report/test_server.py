"""The server of runs: who gets an answer, what it has, and that nothing else can be read."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher._util.errors import RequestError
from launcher.report.page.render import render
from launcher.report.server import RunSite, Server, version_of
from launcher.rundir import RunDirectory
from tests.report.blocks import LAUNCHED
from tests.support.limits import seconds
from tests.support.recorder import Recorder
from tests.watch.run_dirs import BEGIN, iteration, make_attempt, make_run

pytest.importorskip("plotly", reason="plotly is not installed")

SECRET = "nothing of this may be read"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "runs" / "small" / "20260921-101500-abcd", LAUNCHED, backend="local")
    make_attempt(run, metrics=(iteration(1), iteration(2)))
    make_run(tmp_path / "runs" / "odd <b> %2e & name" / "20260920-101500-abcd", LAUNCHED, backend="local")
    (tmp_path / "runs" / "small" / "secret.txt").write_text(SECRET)
    (tmp_path / "secret.txt").write_text(SECRET)
    make_run(tmp_path / "outside" / "small" / "20260921-101500-abcd", LAUNCHED)
    make_run(tmp_path / "runs" / ".hidden" / "20260921-101500-abcd", LAUNCHED)
    return tmp_path / "runs"


@pytest.fixture
def server(root: Path) -> Iterator[Server]:
    site = RunSite((root,), Recorder(), clock=lambda: BEGIN + 100)
    with Server(site) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def get(
    server: Server, path: str, *, host: str | None = "127.0.0.1", method: str = "GET"
) -> tuple[int, str, dict[str, str]]:
    """Ask as a browser would; `path` begins behind the token."""
    return ask(server, f"/{server.token}{path}", host=host, method=method)


def ask(server: Server, path: str, *, host: str | None, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=seconds(20))
    connection.putrequest(method, path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, dict(answer.getheaders())


def test_the_list_leads_to_each_run(server: Server) -> None:
    status, text, headers = get(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    links = re.findall(r'<a href="(run/[^"]*)">([^<]*)</a>', text)
    assert [name for _, name in links] == [
        "small/20260921-101500-abcd",
        "odd &lt;b&gt; %2e &amp; name/20260920-101500-abcd",
    ]
    for link, name in links:
        status, page, _ = get(server, f"/{link}")
        assert (status, f"<h1>{name}</h1>" in page) == (200, True)
    assert 'class="tone attention">unknown</span>' in text
    assert "data-filter" in text


def test_the_page_of_a_run_refers_to_scripts_of_the_server(server: Server) -> None:
    _, page, headers = get(server, "/run/0/small/20260921-101500-abcd/")
    assert re.findall(r'<script src="([^"]*)">', page) == [
        f"../../../../static/{name}" for name in ("plotly.js", "page.js", "live.js")
    ]
    assert len(page) < 200_000, "Plotly is not in it"
    assert "script-src 'self';" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    status, script, headers = get(server, "/static/plotly.js")
    assert (status, "plotly.js v" in script[:200], "max-age" in headers["Cache-Control"]) == (200, True, True)


# Who gets an answer


@pytest.mark.parametrize("path", ["/", "", "/{wrong}/", "/{short}/", "/{long}/", "/?token={token}", "/{token}"])
def test_without_the_token_there_is_nothing(server: Server, path: str) -> None:
    token = server.token
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    status, text, _ = ask(
        server, path.format(token=token, wrong=wrong, short=token[:-1], long=f"{token}x") or "/", host="localhost"
    )
    assert status in (403, 404)
    assert "small" not in text
    assert token not in text


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:9000", True),
        ("localhost:8765", True),
        ("LOCALHOST", True),
        ("[::1]:8765", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("evil.example:80", False),
        ("", False),
        ("[", False),
        (None, False),
    ],
)
def test_the_host_that_a_browser_asks_for_must_be_this_machine(server: Server, host: str | None, allowed: bool) -> None:
    status, text, _ = get(server, "/", host=host)
    assert (status == 200) == allowed
    assert allowed or ("small" not in text and status == 421)


def test_a_tokens_bytes_are_compared_in_constant_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def compare(left: bytes, right: bytes) -> bool:
        asked.append((left, right))
        return False

    monkeypatch.setattr("hmac.compare_digest", compare)
    assert get(server, "/")[0] == 403
    assert asked == [(server.token.encode(), server.token.encode())]
    assert len(server.token) >= 43, "256 bits"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_nothing_but_reading_is_answered(server: Server, method: str) -> None:
    assert get(server, "/", method=method)[0] == 405
    assert get(server, "/", method="HEAD")[:2] == (200, "")


# What can be read


@pytest.mark.parametrize(
    "path",
    [
        "/run/0/small/secret.txt/",
        "/run/0/small/../../outside/small/20260921-101500-abcd/",
        "/run/0/../outside/small/20260921-101500-abcd/",
        "/run/0/..%2foutside%2fsmall/20260921-101500-abcd/",
        "/run/0/small/..%2f..%2foutside%2fsmall%2f20260921-101500-abcd/",
        "/run/0/%2e%2e/outside/",
        "/run/0/small/%2e%2e/",
        "/run/0/.hidden/20260921-101500-abcd/",
        "/run/0/small/20260921-101500-abcd/plan.json",
        "/run/0/small/20260921-101500-abcd/../../../secret.txt",
        "/run/1/small/20260921-101500-abcd/",
        f"/run/{'9' * 5000}/small/20260921-101500-abcd/",
        "/run/00/small/20260921-101500-abcd/",
        "/run/-1/small/20260921-101500-abcd/",
        "/run/%C2%B2/small/20260921-101500-abcd/",
        "/run/0/small/20260921-101500-abcd%00/",
        "/run/0/small/20260921-101500-abc/",
        "/static/../secret.txt",
        "/static/page.css",
        "/static/..%2f..%2fsecret.txt",
        "//secret.txt",
        "/" + "a/" * 5000,
    ],
)
def test_nothing_else_can_be_read(server: Server, path: str) -> None:
    status, text, _ = get(server, path)
    assert status in (404, 414)
    assert SECRET not in text
    assert "small" not in text


def test_a_request_that_is_none_gets_a_short_answer(server: Server) -> None:
    for text in (b"\x16\x03\x01\x02", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 70_000 + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=seconds(20)) as connection:
            try:
                connection.sendall(text)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(1 << 16)
            except ConnectionError:
                continue
            assert b"200 OK" not in answer
            assert len(answer) < 2000
    assert get(server, "/")[0] == 200


# What changes


def test_a_page_is_made_once_for_each_version(server: Server, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def rendered(title: str, *rest: Any, **named: Any) -> str:
        made.append(title)
        return render(title, *rest, **named)

    monkeypatch.setattr("launcher.report.server.render", rendered)
    path = "/run/0/small/20260921-101500-abcd/"
    first = get(server, path)[1]
    assert get(server, path)[1] == first
    assert len(made) == 1
    version = json.loads(get(server, f"{path}state")[1])["version"]
    assert f'data-version="{version}"' in first
    attempt = RunDirectory(root / "small" / "20260921-101500-abcd").attempt(0)
    with attempt.metrics.open("a") as file:
        file.write(json.dumps(iteration(3)) + "\n")
    assert json.loads(get(server, f"{path}state")[1])["version"] != version
    assert len(made) == 1, "asking for the version makes no page"
    assert "last 7 (iteration 3)" in get(server, path)[1]


def test_the_version_of_a_run_reads_no_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(root / "small" / "20260921-101500-abcd")
    before = version_of(run, BEGIN)
    monkeypatch.setattr("builtins.open", None)
    monkeypatch.setattr(os, "open", None)
    assert version_of(run, BEGIN) == before
    assert version_of(run, BEGIN + 61) != before, "Slurm is asked again"
    monkeypatch.undo()
    make_attempt(run, 1, result={"outcome": "finished"})
    assert version_of(run, BEGIN) == version_of(run, BEGIN + 61) != before, "it is over"


def test_a_damaged_run_spoils_neither_the_list_nor_its_page(server: Server, root: Path) -> None:
    (root / "small" / "20260921-101500-abcd" / "plan.json").write_text("{")
    assert "small/20260921-101500-abcd" in get(server, "/")[1]
    status, page, _ = get(server, "/run/0/small/20260921-101500-abcd/")
    assert status == 200
    assert "This section could not be created" in page


def test_a_page_that_cannot_be_made_is_an_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, **__: Any) -> str:
        raise ValueError("of a damaged file")

    monkeypatch.setattr("launcher.report.server.render", wrong)
    for path in ("/", "/run/0/small/20260921-101500-abcd/"):
        status, text, headers = get(server, path)
        assert (status, headers["Content-Type"]) == (500, "text/plain; charset=utf-8")
        assert "of a damaged file" in text and server.token not in text


def test_a_page_that_takes_long_keeps_no_other_waiting(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(root / "slow" / "20260921-101500-abcd", LAUNCHED, backend="local")
    begun, go_on, made = threading.Event(), threading.Event(), list[str]()

    def render_slowly(title: str, *rest: Any, **named: Any) -> str:
        made.append(title)
        if title.startswith("slow/"):
            begun.set()
            assert go_on.wait(seconds(60))
        return render(title, *rest, **named)

    monkeypatch.setattr("launcher.report.server.render", render_slowly)
    slow = [threading.Thread(target=get, args=(server, "/run/0/slow/20260921-101500-abcd/")) for _ in range(2)]
    for each in slow:
        each.start()
    assert begun.wait(seconds(60))
    other = threading.Thread(target=get, args=(server, "/run/0/small/20260921-101500-abcd/"))
    other.start()
    other.join(seconds(60))
    answered = not other.is_alive()
    go_on.set()
    for each in (*slow, other):
        each.join()
    assert answered
    assert made == ["slow/20260921-101500-abcd", "small/20260921-101500-abcd"], "each page once"


def test_slow_browsers_do_not_keep_others_waiting(server: Server) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    assert get(server, "/")[0] == 200
    for each in idle:
        each.close()


# The command


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_other_machines_only_with_an_option(root: Path, host: str) -> None:
    with pytest.raises(RequestError, match="can be reached from other machines") as caught:
        Server(RunSite((root,), Recorder()), host)
    assert "--allow-remote" in str(caught.value.hint)


def test_a_port_that_is_taken_is_named(server: Server, root: Path) -> None:
    server.allow_reuse_address = False
    with pytest.raises(RequestError, match=r"cannot listen on 127\.0\.0\.1") as caught:
        Server(RunSite((root,), Recorder()), port=server.port)
    assert caught.value.where == "--port"


def test_the_command_serves_until_it_is_ended(root: Path) -> None:
    argv = [sys.executable, "-m", "launcher", "serve", "--run-root", str(root), "--json"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = ""
    while not said.endswith("}\n"):
        said += process.stdout.readline()
    url = json.loads(said)["url"]
    token = url.split("/")[3]
    proc = Path(f"/proc/{process.pid}")
    assert token.encode() not in (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
    connection = http.client.HTTPConnection("127.0.0.1", json.loads(said)["port"], timeout=seconds(20))
    connection.request("GET", f"/{token}/")
    assert connection.getresponse().status == 200
    listening = (proc / "net/tcp").read_text()
    assert f"0100007F:{json.loads(said)['port']:04X}" in listening, "on 127.0.0.1 alone"
    before = cpu_ticks(process.pid)
    time.sleep(1)
    assert cpu_ticks(process.pid) - before <= 2, "nothing is done while no page is open"
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=seconds(20))
    assert (process.returncode, out, error) == (0, "", ""), "nothing is logged"


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
