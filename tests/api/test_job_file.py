"""A job file's keys count as the options do."""

from pathlib import Path

import pytest

import launcher
from launcher.api import prepare_plan
from launcher.api.discover import Discovered
from launcher.config.request import Request
from launcher.planning.inputs import FromCheck
from tests.backends.running import TOY, User, user_of


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> User:
    user = user_of(tmp_path)
    for name in ("LAUNCHER_CLUSTERS", "LAUNCHER_CLUSTER"):
        monkeypatch.setenv(name, user.environ[name])
    monkeypatch.chdir(tmp_path)
    return user


def test_check_config_of_a_job_file_is_asked_for(
    user: User, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checked: list[Discovered] = []

    def check_config(found: Discovered, _progress: object) -> FromCheck:
        checked.append(found)
        return FromCheck({"tensor_model_parallel_size": 1, "env_vars": {"FROM": "check"}, "config": {}})

    monkeypatch.setattr("launcher.api.check_config.check_config", check_config)
    monkeypatch.setattr("launcher.planning.memory.try_estimate", lambda *_: (None, "no formula"))
    (user.directory / "job.toml").write_text('recipe = "small.py"\ngpus_per_node = 1\ncheck_config = true\n')
    plan = launcher.plan("job.toml")
    assert len(checked) == 1
    assert [variable.value for variable in plan.plan.environment if variable.name == "FROM"] == ["check"]
    launcher.plan("job.toml", check_config=False)
    prepare_plan.prepare_plan(Request(recipe="job.toml"), "run", check="never")
    assert len(checked) == 1


def test_resume_of_a_job_file_continues_the_run(user: User) -> None:
    user.run("run", "small.py", "toy.iters=5", "--entrypoint", TOY, "--gpus-per-node", "1")
    (user.directory / "more.toml").write_text('resume = "small"\nassignments = ["toy.iters=7"]\n')
    plan = launcher.plan("more.toml")
    (run,) = user.runs()
    assert (plan.plan.run_dir, plan.plan.submission) == (str(run), 1)
    assert plan.plan.overrides == ("toy.iters=7",)
    assert launcher.plan("more.toml", "toy.iters=9").plan.overrides == ("toy.iters=9",)
    (user.directory / "more.toml").write_text('resume = "small"\nrecipe = "small.py"\n')
    with pytest.raises(launcher.RequestError, match="continues a run with its own recipe"):
        launcher.plan("more.toml")
