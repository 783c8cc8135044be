"""Where status and page say that the trackers of a run have it."""

import json
from pathlib import Path

import pytest

from launcher.cli.main import main
from launcher.report.page.content import Section
from launcher.report.page.overview import overview
from launcher.report.page.render import render
from launcher.watch.trackers import trackers_of
from tests.report.blocks import LAUNCHED, rows, subject
from tests.watch.run_dirs import make_attempt, make_run

URL = "https://wandb.example/team/project/runs/small-1"


def test_links_of_the_newest_attempt_that_has_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "small" / "0001", LAUNCHED, backend="local")
    assert trackers_of(run) == []
    wandb = {"id": "small-1", "name": "n", "project": "p", "url": URL, "place": None}
    mlflow = {"id": "abc", "name": "n", "project": "p", "url": None, "place": "file:///store"}
    make_attempt(run).trackers.write_text(json.dumps({"version": 1, "wandb": wandb, "mlflow": mlflow}))
    make_attempt(run, 1)
    assert trackers_of(run) == [("W&B", URL), ("MLflow", "file:///store (id abc)")]
    blocks = tuple(overview(subject(run)))
    assert rows(blocks)["W&B"] == URL
    assert f'<a href="{URL}" rel="noopener noreferrer">' in render("x", [Section("s", "S", blocks)], made="")
    assert main(["status", str(run.path)]) == 0
    assert f"0001: W&B: {URL}\n0001: MLflow: file:///store (id abc)\n" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "[]", '{"wandb": 1}', '{"wandb": {"url": 1, "place": []}}'])
def test_damaged_notes_are_left_out(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path / "small" / "0001", LAUNCHED, backend="local")
    make_attempt(run).trackers.write_text(text)
    assert trackers_of(run) == []


def test_a_link_leads_to_the_web_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "small" / "0001", LAUNCHED, backend="local")
    wandb = {"id": "1", "url": "javascript:alert(1)"}
    make_attempt(run).trackers.write_text(json.dumps({"wandb": wandb}))
    html = render("x", [Section("s", "S", tuple(overview(subject(run))))], made="")
    assert "javascript:alert(1)" in html
    assert 'href="javascript' not in html
