"""Experiments of the real NeMo-Run, which has an environment of its own, through the launcher on a real Slurm."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.backends.running import ROOT, TOY, User, user_of
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster

PYTHON = ROOT / ".venv-nemo-run/bin/python"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-nemo-run: tools/nemo_run.sh makes it")

# NeMo-Run names a recipe by its function, which has to be there; the launcher reads its index and runs the toy.
BRIDGE = {
    "megatron/__init__.py": "",
    "megatron/bridge/__init__.py": "",
    "megatron/bridge/recipes/__init__.py": "",
    "megatron/bridge/recipes/llama/__init__.py": "",
    "megatron/bridge/recipes/llama/llama3.py": "def llama32_1b_pretrain_config(**user_kwargs):\n    return None\n",
}

EXPERIMENT = f"""
import nemo_run as run
from megatron.bridge.recipes.llama.llama3 import llama32_1b_pretrain_config
from launcher.nemo_run import LauncherExecutor

executor = LauncherExecutor(cluster="virtual", time="5")
toy = LauncherExecutor(
    cluster="virtual", time="5", gpus_per_node=2, options={{"entrypoint": {TOY!r}, "check_config": False}}
)

with run.Experiment("chain", executor=executor) as exp:
    prepare = exp.add(
        run.Script(inline='echo "is $WORD"; echo data > "$LAUNCHER_RUN_DIR/../../made"', env={{"WORD": "a b; $HOME"}}),
        name="prepare",
    )
    train = exp.add(
        run.Partial(llama32_1b_pretrain_config, seq_length=1024, micro_batch_size=1),
        executor=toy, name="train", dependencies=[prepare],
    )
    exp.add(
        run.Script("scripts/evaluate.py", args=["--of", "a b"], entrypoint="python"),
        name="evaluate", dependencies=[train],
    )
    exp.run(detach=True)
"""

EVALUATE = """
import os, sys
from helpers import greet
print(greet(sys.argv[1:]), os.environ["RANK"], os.environ["WORLD_SIZE"])
"""


@pytest.fixture
def user(slurm_cluster: VirtualCluster, tmp_path: Path) -> User:
    """A user whose directory has an experiment's files, and who runs them with the environment that has NeMo-Run."""
    made = user_of(tmp_path, slurm_cluster)
    return prepared(made)


def prepared(made: User) -> User:
    directory = made.directory
    for name, text in BRIDGE.items():
        (directory / "stack" / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / "stack" / name).write_text(text)
    (directory / "scripts").mkdir()
    (directory / "scripts/evaluate.py").write_text(EVALUATE)
    (directory / "scripts/helpers.py").write_text("def greet(words):\n    return f'hello {words}'\n")
    environ = {**made.environ, "PYTHONPATH": str(directory / "stack"), "NEMORUN_HOME": str(directory / "nemo")}
    environ |= {"XDG_STATE_HOME": str(directory / "state"), "HOME": str(directory), "COLUMNS": "200"}
    return User(directory, environ)


def execute(user: User, code: str, status: int | None = 0) -> "subprocess.CompletedProcess[str]":
    (user.directory / "experiment.py").write_text(code)
    return user.call([str(PYTHON), "experiment.py"], status=status, timeout_s=120)


def plan_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "plan.json").read_text())
    return found


def status(user: User, run: Path) -> dict[str, Any]:
    (found,) = json.loads(user.run("status", str(run), "--json").stdout)["runs"]
    return dict(found)


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + seconds(120)
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


@pytest.mark.timeout(400)
def test_three_tasks_with_dependencies_run_through_the_plan(user: User, slurm_cluster: VirtualCluster) -> None:
    done = execute(user, EXPERIMENT)
    runs = {run.parent.name: run for run in user.runs()}
    assert list(runs) == ["prepare", "train", "evaluate"], done.stdout + done.stderr
    plans = {name: plan_of(run) for name, run in runs.items()}
    jobs = {name: status(user, run)["job"] for name, run in runs.items()}
    assert "dependency" not in dict(plans["prepare"]["directives"])
    assert dict(plans["train"]["directives"])["dependency"] == f"afterok:{jobs['prepare']}"
    assert dict(plans["evaluate"]["directives"])["dependency"] == f"afterok:{jobs['train']}"
    for run in runs.values():
        until(lambda run=run: (run / "attempts/000/result.json").exists(), str(run))  # type: ignore[misc]
    results = {name: json.loads((run / "attempts/000/result.json").read_text()) for name, run in runs.items()}
    assert {name: found["outcome"] for name, found in results.items()} == dict.fromkeys(runs, "finished"), results
    attempts = [run / "attempts/000" for run in runs.values()]
    times = [(attempt / name).stat().st_mtime for attempt in attempts for name in ("start", "result.json")]
    assert times == sorted(times), "a task began before the one that it waits for had ended"
    assert "is a b; $HOME" in (runs["prepare"] / "attempts/000/logs/rank-0000.log").read_text()
    assert (user.directory / "runs/made").read_text() == "data\n"
    assert "hello ['--of', 'a b'] 0 1" in (runs["evaluate"] / "attempts/000/logs/rank-0000.log").read_text()
    # A recipe of Megatron Bridge is the launcher's own training: arguments, ranks and records as of any run.
    assert plans["train"]["recipe"] == "bridge:llama32_1b_pretrain_config"
    assert plans["train"]["world_size"] == 2
    seen = user.seen(runs["train"])
    given = [override["text"] for override in seen[0]["request"]["overrides"]]
    assert given == ["seq_length=1024", "micro_batch_size=1"]
    # Any later process of NeMo-Run can ask, by the experiment's own records.
    asked = execute(
        user,
        "import nemo_run as run\nexp = run.Experiment.from_title('chain')\n"
        "for name, found in exp.status(return_dict=True).items(): print('STATE', name, found['status'])\n"
        "exp.logs('evaluate')\n",
    )
    states = dict(re.findall(r"^STATE (\w+) (\w+)", asked.stdout, re.MULTILINE))
    assert states == {"prepare": "SUCCEEDED", "train": "SUCCEEDED", "evaluate": "SUCCEEDED"}, asked.stdout
    assert "hello ['--of'" in asked.stdout + asked.stderr


ONE = """
import nemo_run as run
from launcher.nemo_run import LauncherExecutor

def shout(word):
    print(word.upper())

if __name__ == "__main__":  # NeMo-Run's program for functions executes this file as another module
    with run.Experiment("one", executor=LauncherExecutor(cluster="virtual", {fields})) as exp:
        first = exp.add({task}, name="first")
        {more}
        exp.run(detach={detach})
"""


def one(fields: str = "", task: str = "run.Script(inline='true')", more: str = "", detach: bool = True) -> str:
    return ONE.format(fields=fields, task=task, more=more, detach=detach)


@pytest.mark.timeout(400)
def test_a_failed_task_takes_its_dependents_with_it_and_a_function_runs_by_nemo_run(
    user: User, slurm_cluster: VirtualCluster
) -> None:
    # Without detach NeMo-Run waits, follows the log and says how each task ended.
    fields = f'options={{"python": {str(PYTHON)!r}}}'
    done = execute(user, one(fields, "run.Partial(shout, word='heard')", "exp.jobs[0].tail_logs = True", detach=False))
    assert "HEARD" in done.stdout + done.stderr, done.stdout + done.stderr
    assert re.search(r"Job \S+ finished: SUCCEEDED", done.stdout + done.stderr)
    more = 'exp.add(run.Script(inline="true"), name="second", dependencies=[first])'
    execute(user, one(task="run.Script(inline='exit 7')", more=more))
    runs = {run.parent.name: run for run in user.runs()[1:]}
    until(lambda: (runs["first"] / "attempts/000/result.json").exists(), "the failure")
    result = json.loads((runs["first"] / "attempts/000/result.json").read_text())
    assert result["outcome"] == "failed" and "ended with status 7" in json.dumps(result)

    def second() -> str:
        return str(status(user, runs["second"])["phase"])

    until(lambda: second() not in ("queued", "starting"), "the end of the job that waits")
    assert second() in ("cancelled", "failed", "lost"), second()
    assert not (runs["second"] / "attempts/000/start").exists()


WRONG = [
    ("launcher='ft'", {}, "does not start ranks by FaultTolerance"),
    ("launcher='torchrun'", {}, "state gpus_per_node"),
    ("retries=2", {}, "retries starts a failed job again from the beginning"),
    ("packager=run.GitArchivePackager()", {}, "GitArchivePackager is not used"),
    ("dependency_type='afterwards'", {}, "is not one of after, afterany"),
    ("env_vars={'HF_TOKEN': 'hf_' + 34 * 'a'}", {}, "looks like a secret"),
    ("options={'tiem': '5'}", {}, "tiem: unknown key"),
    ("ship=['nowhere']", {}, "there is no file or directory 'nowhere'"),
    ("mounts=['/data']", {}, "--mount needs a container"),
    ("time='soon'", {}, "'soon' is not a time limit"),
    ("", {"task": "run.Script('nowhere.sh')"}, "there is no script 'nowhere.sh'"),
    ("", {"task": "run.Partial(pretrain, config=None)"}, "the config of task first is not a recipe"),
    ("", {"task": "run.Partial(llama32_1b_pretrain_config, seq_lenth=4)"}, "seq_lenth"),
    (
        "options={'keep_going': True}",
        {"more": "exp.add(run.Script(inline='true'), name='second', dependencies=[first])"},
        "the next attempt of a run that keeps going may be another job",
    ),
    ("", {"more": "exp.add([run.Script(inline='true')] * 2, name='group')"}, "Unsupported executor type"),
]


def test_what_the_launcher_does_not_do_is_refused_before_anything_is_submitted(user: User) -> None:
    """One process for all rows: importing NeMo-Run takes seconds."""
    for name, text in {
        "training/__init__.py": "",
        "training/pretrain.py": "def pretrain(config, forward_step_func=None):\n    raise NotImplementedError\n",
    }.items():
        path = user.directory / "stack/megatron/bridge" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    rows = [one(fields, **more) for fields, more, _ in WRONG]  # type: ignore[arg-type]
    code = f"""
from megatron.bridge.recipes.llama.llama3 import llama32_1b_pretrain_config
from megatron.bridge.training.pretrain import pretrain
for number, code in enumerate({rows!r}):
    try:
        exec(code)
    except BaseException as error:
        print("ROW", number, " ".join(str(error).split()))
    else:
        print("ROW", number, "nothing was refused")
"""
    done = execute(user, code)
    said = dict(re.findall(r"^ROW (\d+) (.*)$", done.stdout, re.MULTILINE))
    assert len(said) == len(WRONG), done.stdout + done.stderr
    for number, (_, _, message) in enumerate(WRONG):
        assert message in said[str(number)], f"{WRONG[number]}: {said[str(number)]}"
    assert user.runs() == []
