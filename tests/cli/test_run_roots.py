"""Runs are found from any directory, by every command that takes RUN.

Tier: quick, 1 s.
"""

import os
from pathlib import Path

import pytest

from launcher.cli.main import main
from launcher.rundir.registry import known_roots, remember_root
from tests.watch.run_dirs import make_attempt, make_run

FINISHED = {"outcome": "finished", "iteration": 20, "train_iters": 20, "loss": 1.5}
OURS, THEIRS = "20260101-000001-aaaa", "20260102-000002-bbbb"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a run, one elsewhere that is known, and an empty directory, which is the present one."""
    for place, name in (("project", f"small/{OURS}"), ("elsewhere", f"large/{THEIRS}")):
        event = {"event": "launched", "backend": "local", "attempt": "000", "host": "other"}
        run = make_run(tmp_path / place / "runs" / name, event, backend="local")
        make_attempt(run, result=FINISHED).log(0).write_text(f"the log of {name}\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    remember_root(tmp_path / "elsewhere/runs", os.environ)
    return tmp_path / "project"


def test_status_elsewhere_shows_all_runs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert THEIRS in capsys.readouterr().out
    os.chdir(project)
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert (OURS in out, THEIRS in out) == (True, False), "the run root here has runs"
    assert main(["status", "--all"]) == 0
    out = capsys.readouterr().out
    assert out.index(THEIRS) < out.index(OURS), "the newest first"


def test_status_of_a_named_root_shows_its_runs_alone_and_remembers_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--run-root", str(project.parent / "empty")]) == 0
    assert f"no runs in {project.parent / 'empty'}" in capsys.readouterr().err
    assert project / "runs" not in known_roots(os.environ)
    assert main(["status", "--run-root", str(project / "runs")]) == 0
    assert THEIRS not in capsys.readouterr().out
    assert project / "runs" in known_roots(os.environ)


@pytest.mark.parametrize("name", ["large", THEIRS, THEIRS[:10], f"large/{THEIRS}", "../elsewhere/runs/large/"])
def test_logs_are_found_from_anywhere(project: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["logs", name]) == 0
    assert capsys.readouterr().out == f"the log of large/{THEIRS}\n"


def test_a_named_root_is_searched_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "large", "--run-root", str(project / "runs")]) == 2
    assert "there is no run 'large'" in capsys.readouterr().err


def test_a_run_makes_its_root_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.py").write_text("def configure():\n    return None\n")
    Path("entry.py").write_text("raise SystemExit(1)\n")
    main(["run", "small.py", "--cluster", "local", "--gpus-per-node", "1", "--entrypoint", "entry.py"])
    assert known_roots(os.environ) == [tmp_path / "runs"]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (("--state", "finished"), {OURS, THEIRS}),
        (("--state", "running,failed"), set()),
        (("--state", "finished", "--limit", "1"), {THEIRS}),
        (("--since", "2026-01-02"), {THEIRS}),
        (("--since", "2026-01-01 00:00"), {OURS, THEIRS}),
        (("--since", "2h"), set()),
    ],
)
def test_runs_by_state_and_time(
    project: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], shown: set[str]
) -> None:
    remember_root(project / "runs", os.environ)
    assert main(["status", "--all", *options]) == 0
    out, err = capsys.readouterr()
    assert {each for each in (OURS, THEIRS) if each in out} == shown
    assert ("no such runs" in err) is (not shown)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--state", "runing"), "'runing' is not a state"),
        (("--state", "running,"), "'' is not a state"),
        (("--since", "yesterday"), "'yesterday' is not a time"),
        (("--watch", "--json"), "--watch shows a table"),
        (("--watch", "0"), "not a number of seconds"),
    ],
)
@pytest.mark.usefixtures("project")
def test_wrong_filters(capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str) -> None:
    assert main(["status", *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_watching_ends_when_the_named_runs_are_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "large", "--watch", "1"]) == 0
    assert capsys.readouterr().out.count(THEIRS) == 1


def test_watching_shows_the_runs_again_and_again(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = project.parent / f"elsewhere/runs/large/{THEIRS}/attempts/000/result.json"
    finished, waited = result.read_text(), list[float]()
    result.unlink()

    def sleep(pause_s: float) -> None:
        waited.append(pause_s)
        result.write_text(finished)

    monkeypatch.setattr("launcher.cli.commands.status.time.sleep", sleep)
    assert main(["status", "large", "--watch", "7"]) == 0
    assert waited == [7.0]
    words = capsys.readouterr().out.split()
    assert [word for word in words if word in ("unknown", "finished")] == ["unknown", "finished"]


@pytest.mark.parametrize(
    "words",
    [
        ("status", "gpt", "--state", "failed"),
        ("status", "gpt", "--since", "3d"),
        ("status", "gpt", "--limit", "3"),
        ("status", "gpt", "--all"),
        ("status", "--all", "--run-root", "runs"),
        ("gc", "--older-than", "3d", "--all", "--run-root", "runs"),
    ],
)
def test_options_that_would_choose_among_other_runs_are_refused(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "Leave" in capsys.readouterr().err
