"""`launcher status --cluster NAME`: the runs of one profile, in its run root."""

import json
from pathlib import Path

import pytest

from launcher.cli.main import main
from tests.watch.run_dirs import make_run, submitted


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "clusters").mkdir()
    for name, root in (("one", "shared"), ("two", "shared"), ("three", "other")):
        text = f'extends = "slurm"\nrun_root = "{tmp_path}/{root}"\n'
        (tmp_path / f"clusters/{name}.toml").write_text(text)
    monkeypatch.setenv("LAUNCHER_CLUSTERS", str(tmp_path / "clusters"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    for number, (root, cluster) in enumerate(
        (("shared", "one"), ("shared", "two"), ("shared", "one"), ("other", "three"))
    ):
        run = make_run(tmp_path / root / "small" / f"20260101-00000{number}-abc", *submitted())
        plan = json.loads(run.plan_file.read_text())
        run.plan_file.write_text(json.dumps({**plan, "cluster": cluster}))
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    """The last digit of the id of each run."""
    assert main(["status", "--json", *options]) == 0
    return [run["run_id"][14] for run in json.loads(capsys.readouterr().out)["runs"]]


def test_the_runs_of_a_profile_are_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "--cluster", "one") == ["2", "0"]
    assert shown(capsys, "--cluster", "two") == ["1"]
    assert shown(capsys, "--cluster", "three") == ["3"]
    assert shown(capsys, "--cluster", str(home / "clusters/one.toml"), "--limit", "1") == ["2"]
    assert shown(capsys, "--cluster", "three", "--run-root", str(home / "shared")) == []
    assert shown(capsys, "--run-root", str(home / "shared")) == ["2", "1", "0"]
    assert shown(capsys, "--cluster", "two", "--state", "queued,unknown,lost") == ["1"]


def test_a_name_is_looked_for_in_the_run_root_of_the_profile(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "small", "--cluster", "three") == ["3"]
    assert shown(capsys, "small", "--cluster", "one") == ["2"]


def test_a_run_whose_plan_cannot_be_read_is_not_left_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "shared/small/20260101-000001-abc/plan.json").write_text("{")
    assert shown(capsys, "--cluster", "one") == ["2", "1", "0"]


def test_an_unknown_profile_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--cluster", "four"]) == 2
    assert "four" in capsys.readouterr().err
