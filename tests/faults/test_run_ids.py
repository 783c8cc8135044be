"""Run ids that collide, and directories that killed launchers have left: no run takes or loses another one's files."""

import dataclasses
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launcher.api.prepare_plan import PreparedPlan, prepare_plan
from launcher.api.progress import Silent
from launcher.api.run import start_run
from launcher.backends.prepare import Prepared, RunExistsError, create, renew
from launcher.config.request import Request
from launcher.contract.process import ProcessIdentity
from launcher.planning.model import Plan
from launcher.scripts import scripts
from tests.backends.running import RECIPE, TOY
from tests.support.building import plan


def plan_in(directory: Path) -> Plan:
    recipe = directory / "small.py"
    recipe.write_text(RECIPE)
    made = plan("batch")
    return dataclasses.replace(
        made, run_dir=str(directory / "runs/small/20260921-120000-abcd"), code=(("small.py", str(recipe)),)
    )


@pytest.mark.fault("equal run ids")
def test_of_eight_with_one_id_one_has_the_directory(tmp_path: Path) -> None:
    made = plan_in(tmp_path)
    texts = scripts(made)

    def attempt(_number: int) -> Prepared | None:
        try:
            return create(made, texts)
        except RunExistsError:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [each for each in pool.map(attempt, range(8)) if each is not None]
    assert len(won) == 1
    assert (won[0].run.path / "sbatch.sh").read_text() == texts["sbatch.sh"]
    assert (won[0].run.path / "code/small.py").exists()
    assert [path.name for path in won[0].run.path.parent.iterdir()] == [won[0].run.path.name], "no file is left over"


def test_a_run_whose_id_is_taken_draws_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.py").write_text(RECIPE)
    asked = Request(recipe="small.py", cluster="local", gpus_per_node=1, entrypoint=TOY)
    prepared: PreparedPlan = prepare_plan(asked, "run", check="never")
    taken = Path(prepared.plan.run_dir)
    taken.mkdir(parents=True)
    (taken / "plan.json").write_text("theirs")
    started = start_run(prepared, Silent())
    while started.poll() is None:
        pass
    started.finish(0)
    assert started.run.path.parent == taken.parent
    assert started.run.path != taken
    assert started.run.plan["run_id"] == started.run.path.name
    assert [path.name for path in taken.iterdir()] == ["plan.json"]


@pytest.mark.fault("equal run ids")
def test_what_killed_launchers_have_left_is_swept(tmp_path: Path) -> None:
    made = plan_in(tmp_path)
    directory = Path(made.run_dir).parent
    done = subprocess.Popen(["true"])
    done.wait()
    me = ProcessIdentity.of_this_process()
    makers = {
        "dead": dataclasses.replace(me, pid=done.pid, start_ticks=1),
        "alive": me,
        "elsewhere": dataclasses.replace(me, host="elsewhere", pid=done.pid),
    }
    for name, maker in makers.items():
        (directory / f".{name}.{maker.short()}.partial").mkdir(parents=True)
    (directory / ".unnamed.partial").mkdir()
    create(made, scripts(made))
    left = sorted(path.name.split(".")[1] for path in directory.glob(".*.partial"))
    assert left == ["alive", "elsewhere", "unnamed"]


def test_an_attempt_keeps_its_own_plan_however_often_it_is_resumed(tmp_path: Path) -> None:
    """A launcher that was killed while it wrote the next plan, or a job that never began, is not the attempt's."""
    made = plan_in(tmp_path)
    run = create(made, scripts(made)).run
    attempt = run.begin_attempt()
    for submission in (1, 2):
        again = dataclasses.replace(made, submission=submission)
        renew(run, again, scripts(again))
    assert json.loads((attempt.path / "plan.json").read_text())["submission"] == 0
    assert run.plan["submission"] == 2


def test_a_resume_removes_what_a_killed_one_was_writing(tmp_path: Path) -> None:
    made = plan_in(tmp_path)
    run = create(made, scripts(made)).run
    attempt = run.begin_attempt()
    kept = {str(path) for path in run.path.rglob("*")}
    for path in (
        run.path / ".plan.json.17.tmp",
        run.path / ".lease.host.17",
        run.path / "lease.9.17.tmp",
        run.path / ".latest.001",
        attempt.path / ".sbatch.sh.17.tmp",
    ):
        path.write_text("half")
    (run.path / ".page.html.17.tmp").write_text("another command's")
    run.remove_temporary_files()
    assert {str(path) for path in run.path.rglob("*")} == kept | {str(run.path / ".page.html.17.tmp")}
