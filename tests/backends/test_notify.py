"""Announcements of how attempts end: bounded, in both ways at once, and without the URL in any file."""

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.contract import notify
from launcher.contract.paths import RunPaths
from tests.backends.running import TOY, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster

SECRET = "b8f2a1c0ffee"


class Hook(http.server.BaseHTTPRequestHandler):
    got: list[Any]
    status = 200
    location = ""

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        type(self).got.append((self.path, json.loads(self.rfile.read(length))))
        self.send_response(type(self).status)
        if type(self).location:
            self.send_header("Location", type(self).location)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any]]]:
    """A chat service: its URL with a secret, and what it got."""
    Hook.got, Hook.status = [], 200
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/{SECRET}", Hook.got
    server.shutdown()
    server.server_close()
    thread.join()


def held(directory: Path, text: str) -> list[Path]:
    """The files that hold a text."""
    found = [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
    # The toy notes its whole environment.
    return [path for path in found if not path.name.endswith(".seen.json") and text.encode() in path.read_bytes()]


def test_a_run_announces_its_end_and_its_failure(tmp_path: Path, hook: tuple[str, list[Any]]) -> None:
    url, got = hook
    user = user_of(tmp_path)
    user = User(tmp_path, {**user.environ, "CHAT": url, "no_proxy": "127.0.0.1"})
    (tmp_path / "tell").write_text(f'#!/bin/sh\ncat >"{tmp_path}/sent.$(date +%s%N)"\n')
    (tmp_path / "tell").chmod(0o755)
    ways = ("--notify", str(tmp_path / "tell"), "--notify-url", "CHAT", "--entrypoint", TOY)
    user.run("run", "small.py", "toy.iters=3", *ways)
    user.run("run", "small.py", "toy.fail_rank=0", *ways, status=1)
    sent = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("sent.*"))]
    assert [one["event"] for one in sent] == ["finished", "failed"]
    assert [content for _, content in got] == sent
    assert {path for path, _ in got} == {f"/{SECRET}"}
    assert sent[0]["iteration"] == 3 and sent[0]["text"].startswith("small/")
    assert sent[1]["reason"] and sent[1]["reason"] in sent[1]["text"]
    assert held(tmp_path / "runs", SECRET) == []


def test_a_batch_job_announces_its_end(
    slurm_cluster: VirtualCluster, tmp_path: Path, hook: tuple[str, list[Any]]
) -> None:
    url, got = hook
    user = user_of(tmp_path, slurm_cluster)
    user = User(tmp_path, {**user.environ, "CHAT": url, "no_proxy": "127.0.0.1"})
    asked = ("--nodes=2", "toy.iters=3", "--entrypoint", TOY, "--notify-url", "CHAT", "--env", "no_proxy", "--json")
    job = json.loads(user.run("submit", "small.py", *asked).stdout)
    slurm_cluster.wait(job["job"], "COMPLETED", timeout_s=90)
    ((path, content),) = got
    assert (path, content["event"], content["job"]) == (f"/{SECRET}", "finished", job["job"])
    assert held(tmp_path / "runs", SECRET) == []


def test_what_fails_or_hangs_changes_nothing(tmp_path: Path) -> None:
    user = user_of(tmp_path)
    for command in ("/nowhere/tell", "false"):
        done = user.run("run", "small.py", "toy.iters=2", "--entrypoint", TOY, "--notify", command, "--json")
        assert json.loads(done.stdout)["outcome"] == "finished"
    begin = time.monotonic()
    failed = notify.announce({"command": ["sleep", "60"], "url_variable": None}, {}, limit_s=0.5)
    assert time.monotonic() - begin < 10
    assert failed == ["the program sleep of --notify took more than 0.5 s and was killed"]


def test_the_url_is_in_no_message(monkeypatch: pytest.MonkeyPatch, hook: tuple[str, list[Any]]) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for url, says in {
        f"http://127.0.0.1:1/{SECRET}": "could not be reached: URLError",
        f"file:///etc/{SECRET}": "holds no URL here",
    }.items():
        monkeypatch.setenv("CHAT", url)
        (line,) = notify.announce({"command": [], "url_variable": "CHAT"}, {})
        assert says in line and SECRET not in line
    Hook.status = 503
    monkeypatch.setenv("CHAT", hook[0])
    assert notify.announce({"command": [], "url_variable": "CHAT"}, {}) == ["the URL in CHAT answered 503"]


def test_a_redirection_is_not_taken_for_a_success(monkeypatch: pytest.MonkeyPatch, hook: tuple[str, list[Any]]) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("CHAT", hook[0])
    monkeypatch.setattr(Hook, "location", hook[0].replace(SECRET, "elsewhere"))
    Hook.status = 302
    assert notify.announce({"command": [], "url_variable": "CHAT"}, {}) == ["the URL in CHAT answered 302"]


def test_a_program_and_a_url_that_hang_share_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):  # the other end has given up
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            while True:
                connection.sendall(b"X: y\r\n")
                time.sleep(0.05)

    monkeypatch.setattr(notify, "_KILL_S", 0.3)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: drip(server.accept()[0]), daemon=True).start()
        monkeypatch.setenv("CHAT", f"http://127.0.0.1:{server.getsockname()[1]}/")
        begin = time.monotonic()
        failed = notify.announce({"command": ["sleep", "60"], "url_variable": "CHAT"}, {}, limit_s=1.5)
        assert time.monotonic() - begin < 2.7
    assert "an announcement took more than 1.5 s" in failed


def test_a_variable_that_is_not_set_is_refused(tmp_path: Path) -> None:
    user = user_of(tmp_path)
    done = user.run("plan", "small.py", "--notify-url", "CHAT", "--no-check-config", status=2)
    assert "the variable CHAT is not set in this shell" in done.stderr
    by_value = ("--notify-url", "CHAT", "--env", f"CHAT=https://chat.lab/{SECRET}")
    done = user.run("plan", "small.py", *by_value, "--no-check-config", status=2)
    assert "would write the URL into the plan" in done.stderr and SECRET not in done.stderr
    done = user.run("plan", "small.py", "--notify", "'", "--no-check-config", status=2)
    assert "cannot be split into words" in done.stderr


def test_two_ways_that_both_stand_still_share_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_run", lambda *_: time.sleep(4))
    monkeypatch.setattr(notify, "_post", lambda *_: time.sleep(4))
    begun = time.monotonic()
    failed = notify.announce({"command": ["tell"], "url_variable": "CHAT"}, {}, limit_s=0.1)
    assert failed == ["an announcement took more than 0.1 s"] * 2
    assert time.monotonic() - begun < 2


def test_an_attempt_that_another_one_follows_is_announced_as_such(tmp_path: Path) -> None:
    run = RunPaths(tmp_path / "gpt" / "20260101-000000-aaaa")
    result = {"outcome": "stopped", "reason": "time limit", "iteration": 7}
    following: Any = {"action": "requeue"}
    said = notify.message(run, "000", result, following)
    assert said["event"] == "continuing"
    assert said["text"] == "gpt/20260101-000000-aaaa: another attempt is to follow at iteration 7 (time limit)"
    not_queued = notify.message(run, "000", result, following, not_continued="no further attempt is queued")
    assert not_queued["event"] == "stopped"
    assert not_queued["text"].endswith(": stopped at iteration 7 (time limit); no further attempt is queued")
    ended: Any = {"action": "end"}
    assert notify.message(run, "000", result, ended)["event"] == "stopped"
