"""Lines by which one program reports to another how far its work is."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from launcher.contract.events import EventReader, EventWriter, Unit


class Heard:
    """A listener that notes what it hears."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def stage(self, text: str) -> None:
        self.calls.append(("stage", text))

    def line(self, text: str) -> None:
        self.calls.append(("line", text))

    def progress(self, done: int, total: int | None, unit: Unit) -> None:
        self.calls.append((done, total, unit))


def test_what_is_written_is_heard() -> None:
    out, heard = io.StringIO(), Heard()
    writer = EventWriter(out.write, every_s=1000)
    writer.stage("reading")
    for done in range(5):
        writer.progress(done, 4, "tensors")
    writer.line("note: slow disk")
    writer.error("no", "outside", hint="do")
    writer.error("a consequence", "program")
    writer.result({"ok": True})
    reader = EventReader(heard)
    for line in out.getvalue().splitlines():
        reader.take(line)
    # Of the stage the first and the last.
    assert heard.calls == [("stage", "reading"), (0, 4, "tensors"), (4, 4, "tensors"), ("line", "note: slow disk")]
    assert reader.error == {"event": "error", "message": "no", "fault": "outside", "where": None, "hint": "do"}
    assert reader.result == {"ok": True}


@pytest.mark.parametrize(
    "line", ["loading ...", "[1]", "{}", '{"event": "unheard"}', '{"event": "progress", "done": "x"}', '{"cut']
)
def test_a_line_of_another_program_is_shown_as_it_is(line: str) -> None:
    heard = Heard()
    reader = EventReader(heard)
    reader.take(line)
    assert (heard.calls, reader.error, reader.result) == ([("line", line)], None, None)


def test_a_file_of_events(tmp_path: Path) -> None:
    writer = EventWriter.to_file(tmp_path / "events.jsonl")
    writer.stage("building")
    writer.progress(1, None, "B")
    EventWriter.silent().stage("unheard")
    events = [json.loads(line)["event"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert events == ["stage", "progress"]
