"""The page in a browser: plots are drawn, no request is made, and hostile text stays text."""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from launcher.report.page import plots
from launcher.report.page.content import Heading, LogExcerpt, Plot, Section, Subject, Table, Text, facts
from launcher.report.page.render import plotly_js, render, write_page
from launcher.report.page.sections import sections_of
from launcher.rundir import RunDirectory
from tests.report.browser import Seen, open_page
from tests.report.test_activities import GEMM
from tests.report.test_profiles import STEPS, leave, trace
from tests.support.recorder import Recorder
from tests.watch.run_dirs import BEGIN, iteration, make_attempt, make_run

pytestmark = pytest.mark.slow

graph_objects = pytest.importorskip("plotly.graph_objects", reason="plotly is not installed")

HOSTILE = (
    "</script></pre><script>document.title='hacked'</script>\"'><img src=http://127.0.0.1:9/x onerror=hack()>{{ 7*7 }}"
)


class Reader(HTMLParser):
    """The elements of a page with their attributes, and its text without that of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.elements if each == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run with everything that a page can show, and hostile text wherever a user or a program can put some."""
    made = make_run(tmp_path_factory.mktemp("runs") / "<b>small" / "0001", {"event": "launched", "host": "elsewhere"})
    variable = {"name": "A", "value": HOSTILE, "origin": HOSTILE, "scope": "task", "overridden": [[HOSTILE, HOSTILE]]}
    plan = {**made.plan, "overrides": [HOSTILE], "environment": [variable], "recipe": HOSTILE, "world_size": 1}
    (made.path / "plan.json").write_text(json.dumps(plan))
    asked = {"name": "torch", "start": 2, "stop": 4, "ranks": [0]}
    (made.path / "argv.json").write_text(json.dumps({"options": {"profiler": asked}}))
    failed = {"outcome": "failed", "reason": HOSTILE, "first_failing_rank": {"rank": 0, "what": HOSTILE}}
    timeline = ({"event": "imports", "time": 3, "seconds": 2}, {"event": HOSTILE, "time": 4})
    numbers: dict[str, Any] = {"grad_norm": 1.0, "tflops_per_gpu": 400.0}
    first = make_attempt(made, metrics=(iteration(1, **numbers), iteration(2)), timeline=timeline, result=failed)
    first.log(0).write_text(f"\x1b[31mred\x1b[0m \x00{HOSTILE}\n")
    make_attempt(made, 1, metrics=(iteration(2, **numbers), iteration(3)), timeline=timeline)
    (first.path / "profiles").mkdir()
    kernels = [{"ph": "X", "name": name, "cat": "kernel", "ts": 5, "dur": 5} for name in (GEMM, HOSTILE)]
    leave(made, 0, trace([*STEPS, *kernels]))
    return made


@pytest.fixture(scope="module")
def page(run: RunDirectory) -> Path:
    return write_page(run, Recorder(), now=BEGIN)


@pytest.fixture(scope="module")
def seen(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return open_page(page, tmp_path_factory.mktemp("browser"))


def test_every_section_can_be_reached_from_the_top(page: Path) -> None:
    read = Reader(page.read_text())
    wanted = ["overview", "outcome", "training", "phases", "profiles", "plan"]
    assert [each["href"] for each in read.all("a")] == ["#main", *(f"#{name}" for name in wanted)]
    assert [each["id"] for each in read.all("section")] == wanted
    assert read.all("html") == [{"lang": "en"}]
    assert all(each.get("scope") in ("row", "col") for each in read.all("th"))


def test_hostile_text_is_text(page: Path, run: RunDirectory) -> None:
    read = Reader(page.read_text())
    assert read.all("img") == []
    assert [sorted(each) for each in read.all("script") if "data-plot" not in each] == [[], []], "Plotly, and its use"
    assert read.text.count(HOSTILE) >= 10
    assert f"red \N{REPLACEMENT CHARACTER}{HOSTILE}" in read.text, "a terminal's colours are taken out"
    assert f"{run.path.parent.name}/0001" in read.text
    assert "\x1b" not in page.read_text()


def test_text_that_is_half_a_sign_can_be_written(tmp_path: Path) -> None:
    lone = "\ud800"
    blocks = (
        Text(lone),
        Heading(lone),
        facts((lone, lone)),
        Table(lone, (lone,), ((lone,),)),
        LogExcerpt(lone, (lone,)),
    )
    html = render(lone, [Section("s", lone, blocks)], made="now", plotly="")
    assert "?" in html.encode().decode()
    assert "<script>" not in html, "without a plot there is no script"


def test_json_inside_a_script_cannot_end_it() -> None:
    plot = plots.stacked_bars(HOSTILE, HOSTILE, [HOSTILE], {HOSTILE: [1.0]}, description=HOSTILE)
    html = render("x", [Section("s", "S", (plot,))], made="now", plotly="plotly()")
    read = Reader(html)
    assert [each.get("data-plot") for each in read.all("script")] == ["plot-s-1", None, None]
    (text,) = [line for line in html.splitlines() if "data-plot=" in line]
    figure = json.loads(text.partition(">")[2].removesuffix("</script>"))
    assert figure["data"][0]["name"] == plots.label(HOSTILE)
    with pytest.raises(ValueError, match="not JSON compliant"):
        render("x", [Section("s", "S", (plots.lines("x", "x", [("a", [(1, float("nan"))])]),))], made="", plotly="")


def test_figures_are_what_plotly_documents(run: RunDirectory) -> None:
    blocks = [block for section in sections_of(Subject(run, Recorder(), BEGIN)) for block in section.blocks]
    figures = [block for block in blocks if isinstance(block, Plot)]
    assert len(figures) == 6
    for figure in figures:
        # Raises ValueError for a property that there is not.
        graph_objects.Figure(data=list(figure.data), layout=figure.layout)


def test_plotly_comes_with_the_page_and_is_loaded_for_it_alone() -> None:
    assert "plotly.js v" in plotly_js()[:200]
    assert "</script" not in plotly_js().lower()
    for name in [name for name in sys.modules if name.startswith("launcher.")]:
        assert "plotly" not in vars(sys.modules[name]), name


def test_the_plots_are_drawn(page: Path, seen: Seen) -> None:
    wanted = [each["data-plot"] for each in Reader(page.read_text()).all("script") if "data-plot" in each]
    drawn = Reader(seen.dom)
    there = [each["id"] for each in drawn.all("div") if "js-plotly-plot" in (each.get("class") or "").split()]
    assert there == wanted
    assert len(wanted) == 6
    pictures = [each for each in drawn.all("svg") if each.get("class") == "main-svg"]
    assert len(pictures) >= len(wanted)
    assert seen.dom.count("js-line") >= 8, "two attempts, four numbers"


def test_nothing_is_asked_for_and_nothing_complains(seen: Seen) -> None:
    assert seen.console == ()
    assert seen.requests == ()
    assert "<title>&lt;b&gt;small/0001</title>" in seen.dom, "no script has changed it"


def test_no_button_sends_a_plot_to_anybody(seen: Seen) -> None:
    drawn = Reader(seen.dom)
    buttons = {each["data-title"] for each in drawn.all("a") + drawn.all("button") if "data-title" in each}
    assert buttons == {"Download plot as a PNG", "Zoom", "Pan", "Zoom in", "Zoom out", "Autoscale", "Reset axes"}


def test_what_is_smuggled_into_a_page_does_not_run(page: Path, tmp_path: Path) -> None:
    """The last line of defence, and the proof that the tests above would see a request."""
    hack = "document.title = 'hacked'"
    bad = f'<script>{hack}</script><img src="http://127.0.0.1:9/x" onerror="{hack}">'
    smuggled = tmp_path / "smuggled.html"
    smuggled.write_text(page.read_text().replace('<main id="main" tabindex="-1">', f"<main>{bad}"))
    seen = open_page(smuggled, tmp_path)
    assert "hacked</title>" not in seen.dom
    assert any("Content Security Policy" in each for each in seen.console)
    assert seen.requests == ()
    bare = tmp_path / "bare.html"
    bare.write_text(f"<!doctype html><title>x</title>{bad}")
    seen = open_page(bare, tmp_path)
    assert "hacked</title>" in seen.dom
    assert seen.requests == ("http://127.0.0.1:9/x",)


def test_a_click_on_a_column_sorts_quantities_by_value(tmp_path: Path) -> None:
    wanted = ["9", "10", "0:59:00", "2d 03:00:00", "900 MB", "1.0 GiB", "1.2 GB", "?", "auto", ""]
    table = Table("Sizes", ("Size",), tuple((text,) for text in sorted(wanted)), sortable=True)
    html = render("Sizes", [Section("s", "S", (table,))], made="now")
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    path = tmp_path / "page.html"
    for clicks, order in ((1, wanted), (2, [*reversed(wanted[:-1]), ""])):
        click = 'document.querySelector("th button").click();' * clicks
        path.write_text(html.replace("</body>", f"<script>{click}</script></body>"))
        dom = open_page(path, tmp_path / f"browser{clicks}").dom
        assert re.findall(r"<td[^>]*>(.*?)</td>", dom) == order
