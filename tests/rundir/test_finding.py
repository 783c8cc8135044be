"""Finding the run that a user means."""

import os
from pathlib import Path

import pytest

from launcher._util.errors import RequestError
from launcher.rundir.finding import find_run, list_runs
from tests.watch.run_dirs import make_run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, name in enumerate(
        ["small/20260101-000001-aaaa", "small/20260102-000002-bbbb", "large/20260101-000003-cccc"]
    ):
        run = make_run(tmp_path / name)
        os.utime(run.path / "plan.json", (1000 + number, 1000 + number))
    (tmp_path / "small" / "not a run").mkdir()
    return tmp_path


def test_newest_first(root: Path) -> None:
    assert [run.path.name[-4:] for run in list_runs(root)] == ["cccc", "bbbb", "aaaa"]
    assert list_runs(root / "none") == []


def test_a_directory_that_is_still_being_written_is_not_a_run(root: Path) -> None:
    make_run(root / "small/.20260103-000004-dddd.partial")
    assert len(list_runs(root)) == 3


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("small", "bbbb"),
        ("large", "cccc"),
        ("20260101-000001-aaaa", "aaaa"),
        ("20260102", "bbbb"),
        ("small/20260101-000001-aaaa", "aaaa"),
    ],
)
def test_by_name_or_id(root: Path, name: str, end: str) -> None:
    assert find_run(name, root).path.name.endswith(end)


def test_by_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "small" / "20260101-000001-aaaa"
    assert find_run(str(path), root / "elsewhere").path == path
    monkeypatch.chdir(path.parent)
    assert find_run("20260101-000001-aaaa", root / "elsewhere").path == path


def test_what_fits_several_or_none(root: Path) -> None:
    with pytest.raises(RequestError, match="fits 2 runs: large/20260101-000003-cccc, small/20260101-000001-aaaa"):
        find_run("20260101", root)
    with pytest.raises(RequestError, match="no run 'smal'") as caught:
        find_run("smal", root)
    assert "small" in (caught.value.hint or "")
    with pytest.raises(RequestError, match="no run 'x'") as caught:
        find_run("x", root / "none")
    assert "--run-root" in (caught.value.hint or "")
