"""`launcher cancel` of several runs."""

import json
from pathlib import Path

import pytest

from launcher._util.errors import LauncherError, OutsideError, RequestError
from launcher.cli.main import main
from launcher.rundir import RunDirectory
from tests.watch.run_dirs import make_run


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ({}, 0),
        ({"1": RequestError("not from here")}, 2),
        ({"1": OutsideError("unknown job"), "2": RequestError("not from here")}, 3),
        ({"3": OutsideError("unknown job")}, 3),
    ],
)
def test_a_run_that_cannot_be_ended_keeps_no_other_from_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    errors: dict[str, LauncherError],
    status: int,
) -> None:
    def cancel_run(run: RunDirectory, *_: object, **__: object) -> str:
        if run.path.name in errors:
            raise errors[run.path.name]
        return "ended"

    monkeypatch.setattr("launcher.api.cancel.cancel_run", cancel_run)
    monkeypatch.setattr("launcher.api.locate.find_run_root", lambda *_: tmp_path)
    runs = [make_run(tmp_path / "small" / number) for number in "123"]
    assert main(["cancel", *(str(run.path) for run in runs), "--json"]) == status
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["runs"] == {str(run.path): "ended" for run in runs if run.path.name not in errors}
    assert {path.rpartition("/")[2]: each["message"] for path, each in found["errors"].items()} == {
        name: error.message for name, error in errors.items()
    }
    assert found["exit_status"] == status
    assert err.count("ended\n") == 3 - len(errors)
    assert err.count("error: ") == len(errors)
