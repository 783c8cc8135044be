"""A headless Chromium without network access."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.limits import seconds

_NO_NETWORK = ("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--disable-component-update")


@dataclass(frozen=True)
class Seen:
    """The document after its scripts have run, what they said on the console, and whom the page tried to ask."""

    dom: str
    console: tuple[str, ...]
    requests: tuple[str, ...]


def browser() -> str:
    """Chromium's program; skips the test where there is none."""
    found = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    return found or pytest.skip("no browser is installed (Debian's package chromium)")


def open_page(page: Path, directory: Path) -> Seen:
    """Open a file in a browser of its own, whose profile is put in `directory`."""
    log = directory / "network.json"
    argv = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", *_NO_NETWORK]
    argv += [f"--user-data-dir={directory / 'profile'}", "--enable-logging=stderr", f"--log-net-log={log}"]
    argv += ["--window-size=1280,1000", "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=seconds(240))
    return Seen(done.stdout, tuple(re.findall(r"CONSOLE\S* (.*)", done.stderr)), tuple(_requests(log)))


def _requests(log: Path) -> list[str]:
    """What the page asked for; what the browser asks for by itself has no origin."""
    events = (event.get("params", {}) for event in json.loads(log.read_text())["events"])
    asked = [params["url"] for params in events if params.get("initiator", "not an origin") != "not an origin"]
    return [url for url in asked if not url.startswith(("data:", "file:", "blob:"))]
