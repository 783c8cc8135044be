"""A headless Chromium that is steered through its DevTools protocol, over a pipe: one browser for many pages.

Source: https://chromedevtools.github.io/devtools-protocol/ and Chromium's --remote-debugging-pipe (messages end with a
zero byte, read from descriptor 3 and written to 4).
"""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.report.browser import browser
from tests.support.limits import seconds

NO_NETWORK = (
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    *("--disable-background-networking", "--disable-component-update"),
)
AXE = Path(__file__).parent / "axe"
"""package.json and package-lock.json of axe-core, which `npm ci` installs."""


@dataclass
class Page:
    """One tab: what it said on the console, and what it asked for."""

    chromium: "Chromium"
    session: str
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, url: str, *, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
        """Open an address and wait until all is loaded, with all plots drawn."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression, awaited where it is a promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, condition: str, timeout_s: float = 60) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + seconds(timeout_s)
        while not self.evaluate(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.05)

    def press(self, key: str, code: str, text: str = "") -> None:
        """Press a key, as a user does."""
        number = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39}[key]
        event = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def screenshot(self, path: Path, *, height: int | None = None) -> None:
        """Write a picture of the page, or of its upper part."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], height or 16_000), "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def cut(self) -> list[str]:
        """Return the texts that stand beyond the right edge and cannot be scrolled to inside of the page."""
        found = self.evaluate(
            """[...document.querySelectorAll("main *, header *")].filter((each) => {
              if (each.closest("svg, .js-plotly-plot, [hidden], .skip, thead")) return false;
              if (!each.getClientRects().length) return false;
              if (each.closest("pre") && each.tagName !== "PRE") return false;
              return each.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
            }).map((each) => `${each.tagName} ${each.className} ${each.textContent.slice(0, 40)}`)"""
        )
        return list(found)

    def axe(self) -> list[str]:
        """Return what axe finds wrong, each as `rule: element`."""
        self.evaluate(axe_script() + "; true")
        found = self.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{each['id']}: {node['html'][:120]} ({node['failureSummary'].splitlines()[1].strip()[:160]})"
            for each in found["violations"]
            for node in each["nodes"]
        ]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        return self.chromium.call(method, self.session, **parameters)


class Chromium:
    """The browser; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self._rest = b""
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> "Chromium":
        """Start it."""
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        argv = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", *NO_NETWORK]
        argv += ["--remote-debugging-pipe", "--hide-scrollbars", f"--user-data-dir={self._directory / 'profile'}"]
        moved = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", moved, "bash", *argv],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        with contextlib.suppress(OSError, AssertionError):  # it has ended already
            self.call("Browser.close")
        os.close(self._write)
        os.close(self._read)
        try:
            self._process.wait(timeout=seconds(20))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def page(self) -> Page:
        """Return a new tab, whose console and requests are noted."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        made = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            made.call(f"{domain}.enable")
        return made

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        text = json.dumps({**message, **({"sessionId": session} if session else {})})
        os.write(self._write, text.encode() + b"\0") if len(text) < 4096 else self._write_long(text)
        for answer in self._messages():
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])
        raise AssertionError(f"the browser has ended before it answered {method}")

    def _write_long(self, text: str) -> None:
        left = text.encode() + b"\0"
        while left:
            left = left[os.write(self._write, left) :]

    def _messages(self) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + seconds(120)
        while True:
            while b"\0" in self._rest:
                text, _, self._rest = self._rest.partition(b"\0")
                message = json.loads(text)
                self._note(message)
                yield message
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self._read, 1 << 20)
            if not more:
                return
            self._rest += more

    def _note(self, message: dict[str, Any]) -> None:
        page, values = self._pages.get(message.get("sessionId", "")), message.get("params", {})
        if page is None:
            return
        notes: dict[str, Callable[[], None]] = {
            "Runtime.consoleAPICalled": lambda: page.console.append(str(values["args"])),
            "Runtime.exceptionThrown": lambda: page.console.append(str(values["exceptionDetails"])),
            "Log.entryAdded": lambda: page.console.append(values["entry"]["text"]),
            "Network.requestWillBeSent": lambda: page.requests.append(values["request"]["url"]),
        }
        notes.get(message.get("method", ""), lambda: None)()


def axe_script() -> str:
    """Return axe-core's script, installed with `npm ci`; skips the test where that is not possible."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    installed = AXE.parents[2] / "build" / "axe"
    script = installed / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        installed.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(AXE / name, installed)
        done = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"],
            cwd=installed,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds(240),
        )
        if done.returncode != 0:
            pytest.skip(f"axe-core could not be installed: {done.stderr[-300:]}")
    return script.read_text()
