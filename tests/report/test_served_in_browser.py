"""Served pages in a browser: they are drawn, follow a run, work by keyboard, and keep to themselves."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.report.page.render import write_page
from launcher.report.server import RunSite, Server
from launcher.rundir import RunDirectory
from tests.report import shown_runs
from tests.report.devtools import Chromium, Page
from tests.support.recorder import Recorder
from tests.watch.run_dirs import BEGIN

pytest.importorskip("plotly", reason="plotly is not installed")
pytestmark = pytest.mark.slow

SCREENS = Path(__file__).resolve().parents[2] / "build" / "screens"
PLOTS_DRAWN = """(() => {
  const plots = [...document.querySelectorAll("script[data-plot]")].map((each) => each.previousElementSibling);
  return plots.length > 0 && plots.every((each) => each.querySelector(".main-svg"));
})()"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    root = tmp_path_factory.mktemp("shown") / "runs"
    return {name: make(root) for name, make in shown_runs.RUNS.items()}


@pytest.fixture(scope="module")
def server(runs: dict[str, RunDirectory]) -> Iterator[Server]:
    site = RunSite((runs["failed"].path.parents[1],), Recorder())
    with Server(site) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def address(server: Server, run: RunDirectory) -> str:
    return f"{server.url}run/0/{run.path.parent.name}/{run.path.name}/"


def assert_quiet(page: Page, url: str) -> None:
    """The console has no word, and nothing was asked of anybody else."""
    assert page.console == []
    assert [each for each in page.requests if not each.startswith((url, "data:", "blob:"))] == []


def test_a_running_run_is_followed(chromium: Chromium, server: Server, runs: dict[str, RunDirectory]) -> None:
    page, run = chromium.page(), runs["running"]
    page.open(server.url)
    assert page.evaluate("document.querySelectorAll('tbody tr').length") == 3
    page.evaluate("document.querySelector(`a[href*='90ab']`).click()")
    page.wait_for("document.title.endsWith('20260922-101500-90ab')")
    page.wait_for(PLOTS_DRAWN)
    assert page.evaluate("document.querySelector('.state').textContent").startswith("running")
    page.evaluate("document.querySelector('details').open = true")
    page.evaluate("const log = document.querySelector('[name=logy]'); log.click()")
    page.wait_for("document.querySelector('.js-plotly-plot')._fullLayout.yaxis.type === 'log'")
    assert page.evaluate("document.body.textContent.includes('iteration 800')")
    with run.attempt(0).metrics.open("a") as file:
        file.write(json.dumps(shown_runs.lines(801, 802, time.time())[0]) + "\n")
    page.wait_for("document.body.textContent.includes('iteration 801')")
    page.wait_for(PLOTS_DRAWN)
    assert page.evaluate("document.querySelector('details').open"), "what was unfolded stays so"
    assert page.evaluate("document.querySelector('[name=logy]').checked"), "and so do the controls"
    page.wait_for("document.querySelector('.js-plotly-plot')._fullLayout.yaxis.type === 'log'")
    assert_quiet(page, server.url)


@pytest.mark.soak
def test_nothing_is_asked_while_a_page_is_hidden(chromium: Chromium, server: Server) -> None:
    page = chromium.page()
    page.open(server.url)
    page.evaluate("Object.defineProperty(document, 'visibilityState', {get: () => 'hidden', configurable: true})")
    page.evaluate("new Promise((done) => setTimeout(done, 200))")
    page.requests.clear()
    page.evaluate("new Promise((done) => setTimeout(done, 6000))")
    assert page.requests == []
    page.evaluate("delete document.visibilityState")
    page.wait_for("performance.getEntriesByName(location.href + 'state').length > 0")


@pytest.mark.soak
def test_a_server_that_is_gone_is_said(chromium: Chromium, runs: dict[str, RunDirectory]) -> None:
    page = chromium.page()
    with Server(RunSite((runs["failed"].path.parents[1],), Recorder())) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        page.open(made.url)
        made.shutdown()
        thread.join()
    page.wait_for("document.getElementById('live').textContent.includes('may be out of date')")


def test_all_controls_work_by_keyboard(chromium: Chromium, server: Server, runs: dict[str, RunDirectory]) -> None:
    page = chromium.page()
    page.open(address(server, runs["resumed"]))
    page.wait_for(PLOTS_DRAWN)
    page.press("Tab", "Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.press("Enter", "Enter", "\r")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = []
    for _ in range(40):
        page.press("Tab", "Tab")
        reached.append(page.evaluate("document.activeElement.name || document.activeElement.tagName"))
        if reached[-1] == "smoothing":
            break
    assert [name for name in reached if name in ("axis", "logy", "logx", "smoothing")] == [
        *("axis", "logy", "logx", "smoothing"),
    ]
    before = page.evaluate("document.querySelector('.js-plotly-plot').data.find((each) => !each.meta).y.slice(0, 9)")
    for _ in range(50):
        page.press("ArrowRight", "ArrowRight")
    assert page.evaluate("document.querySelector('.controls output').textContent") == "50 %"
    after = page.evaluate("document.querySelector('.js-plotly-plot').data.find((each) => !each.meta).y.slice(0, 9)")
    assert after[0] == before[0]
    assert after[1] == pytest.approx((before[0] * 0.5 + before[1]) / 1.5)
    page.evaluate("document.querySelector('[name=axis]').focus()")
    page.evaluate("""const axis = document.querySelector('[name=axis]'); axis.value = 'tokens';
        axis.dispatchEvent(new Event('input'))""")
    page.wait_for("document.querySelector('.js-plotly-plot').layout.xaxis.title.text === 'tokens of this run'")
    xs = page.evaluate("document.querySelector('.js-plotly-plot').data.map((each) => each.x.at(-1))")
    assert max(xs) == pytest.approx(131_072 * shown_runs.TOTAL)


def test_a_page_has_no_barriers(chromium: Chromium, server: Server, runs: dict[str, RunDirectory]) -> None:
    """Pages of other runs, and dark ones, are in the matrix below."""
    page = chromium.page()
    page.open(address(server, runs["failed"]))
    page.wait_for(PLOTS_DRAWN)
    assert page.axe() == []
    page.open(server.url)
    assert page.axe() == []


@pytest.mark.soak
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 500])
@pytest.mark.parametrize("name", [*shown_runs.RUNS, "list", "file"])
def test_pages_of_all_kinds(
    chromium: Chromium, server: Server, runs: dict[str, RunDirectory], name: str, width: int, dark: bool, tmp_path: Path
) -> None:
    """Failed, resumed and running runs, the list, and a page of one file; pictures are in build/screens."""
    page = chromium.page()
    url = server.url if name == "list" else address(server, runs.get(name, runs["failed"]))
    if name == "file":
        written = write_page(runs["resumed"], Recorder(), tmp_path / "page.html", now=BEGIN + 9000)
        url = written.as_uri()
    page.open(url, width=width, dark=dark)
    if name != "list":
        page.wait_for(PLOTS_DRAWN)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert page.cut() == []
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    SCREENS.mkdir(parents=True, exist_ok=True)
    page.screenshot(SCREENS / f"{name}-{width}-{'dark' if dark else 'light'}.png", height=6000)
    assert page.axe() == []
    assert_quiet(page, "file:" if name == "file" else server.url)
