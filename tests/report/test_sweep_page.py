"""The page of a sweep: its table, its plots, two sweeps side by side, and in a browser sorting and filtering."""

import re
from pathlib import Path

import pytest

from launcher._util.errors import RequestError
from launcher.report.page.content import Facts, Plot, Table
from launcher.report.sweep_page import PointRow, SweepData, sections, write_sweep_page
from tests.report.browser import open_page
from tests.report.test_page_in_browser import HOSTILE

pytest.importorskip("plotly", reason="plotly is not installed")


def row(number: int, size: int, kind: str, seconds: float | None, **more: object) -> PointRow:
    values = {"state": "finished" if seconds else "failed", "reason": None if seconds else "failed: ValueError", **more}
    return PointRow(
        number=number,
        name=f"point{number}",
        values=(("size", str(size)), ("kind", kind)),
        reward=1 / seconds if seconds else None,
        metrics=(("step_time_s", seconds), ("loss", 2.5)) if seconds else (),
        runs=(f"/runs/s/point{number}-0",),
        measured=(seconds, seconds * 1.02) if seconds else (),
        steps=tuple((step, seconds + step / 1000) for step in range(1, 9)) if seconds else (),
        **values,  # type: ignore[arg-type]
    )


def sweep(name: str = "first", factor: float = 1.0) -> SweepData:
    rows = [row(number, 2**number, "ab"[number % 2], factor * (1 + number / 10)) for number in range(1, 7)]
    return SweepData(name, f"/runs/{name}", "step_time_s", "point1 is the best", (*rows, row(7, 128, "a", None)))


def test_the_sections_of_a_sweep() -> None:
    made = {section.name: section.blocks for section in sections([sweep()])}
    assert list(made) == ["overview", "points", "coordinates", "steps", "failures"]
    (facts,) = made["overview"]
    assert isinstance(facts, Facts)
    assert dict(facts.rows)["Points"] == "1 failed, 6 finished"
    assert dict(facts.rows)["Best"] == "point1 is the best"
    (table,) = made["points"]
    assert isinstance(table, Table)
    assert table.sortable
    assert table.columns == (
        "trial",
        "point",
        "size",
        "kind",
        "state",
        "step_time_s",
        "loss",
        "spread %",
        "runs",
        "reason",
    )
    assert table.rows[0] == ("1", "point1", "2", "b", "finished", "1.1", "2.5", "1.40", "1", "")
    assert table.rows[6] == ("7", "point7", "128", "a", "failed", "", "", "", "1", "failed: ValueError")
    (lines,) = made["coordinates"]
    assert isinstance(lines, Plot)
    best = lines.data[-1]
    assert best["name"] == "fifth 1 of 5"
    # Size 2 of 2 to 64 is at the bottom of its axis, kind b at the top, the fastest at the bottom of the last one.
    assert best["y"][:4] == [0.0, 1.0, 0.0, None]
    assert lines.layout["xaxis"]["ticktext"] == ["size", "kind", "step_time_s"]
    boxes, steps = made["steps"]
    assert isinstance(boxes, Plot)
    assert isinstance(steps, Plot)
    assert [box["name"] for box in boxes.data][:2] == ["size=2 kind=b", "size=4 kind=a"]
    assert len(steps.data) == 6


def test_two_sweeps_side_by_side() -> None:
    made = {section.name: section.blocks for section in sections([sweep(), sweep("second", 0.9)])}
    (table,) = made["points"]
    assert isinstance(table, Table)
    assert table.columns[0] == "sweep"
    assert [cells[0] for cells in table.rows] == ["first"] * 7 + ["second"] * 7
    (lines,) = made["coordinates"]
    assert isinstance(lines, Plot)
    assert {trace["name"] for trace in lines.data} == {"first", "second"}
    boxes = made["steps"][0]
    assert isinstance(boxes, Plot)
    assert boxes.data[0]["name"] == "second: size=2 kind=b"


def test_a_sweep_without_results_has_no_plots() -> None:
    waiting = SweepData("s", "/runs/s", "step_time_s", "no point has finished", (row(1, 2, "a", None, state="queued"),))
    assert [section.name for section in sections([waiting])] == ["overview", "points"]


def test_a_directory_in_place_of_the_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not a file"):
        write_sweep_page([sweep()], tmp_path, now=0)


CLICKS = """<script>
const heads = [...document.querySelectorAll("#table-points-1 th button")];
const head = heads.find((each) => each.textContent === "step_time_s");
head.click(); head.click();
const field = document.querySelector("[data-filter=table-points-1]");
field.value = "SECOND finished";
field.dispatchEvent(new Event("input"));
</script>"""


@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    odd = row(8, 9, HOSTILE, 3.0, reason=HOSTILE)
    path = write_sweep_page(
        [SweepData(HOSTILE, HOSTILE, "step_time_s", HOSTILE, (*sweep().rows, odd)), sweep("second")],
        tmp_path / "page.html",
        now=0,
    )
    seen = open_page(path, tmp_path / "browser")
    assert seen.requests == ()
    assert "<title>hacked" not in seen.dom
    assert not [line for line in seen.console if "Error" in line]
    assert seen.dom.count('class="scatterlayer') >= 2
    assert "15 of 15" in seen.dom
    # As a user would click; the page itself allows no further script.
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text())
    path.write_text(text.replace("</body>", f"{CLICKS}</body>"))
    dom = open_page(path, tmp_path / "browser").dom
    assert "6 of 15" in dom
    table = dom[dom.index('id="table-points-1"') :]
    body = table[table.index("<tbody") : table.index("</tbody>")]
    rows = re.findall(r"<tr([^>]*)>(.*?)</tr>", body, re.DOTALL)
    shown = [re.findall(r"<td[^>]*>(.*?)</td>", cells) for attributes, cells in rows if "hidden" not in attributes]
    assert {cells[0] for cells in shown} == {"second"}
    times = [float(cells[6]) for cells in shown]
    assert times == sorted(times, reverse=True)
