"""`launcher import-nemo-run`: job files of an experiment, what of it they lack, and that they run."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from launcher._util import toml
from tests.backends.running import ROOT, User, user_of
from tests.nemo_run.test_executor import PYTHON, prepared, until
from tests.support.slurm.virtual_cluster import VirtualCluster

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-nemo-run: tools/nemo_run.sh makes it")

SLURM = """
import sys
import nemo_run as run
from megatron.bridge.recipes.llama.llama3 import llama32_1b_pretrain_config

executor = run.SlurmExecutor(
    account="team", partition="batch", time="00:05:00", nodes=1, ntasks_per_node=2, mem="1G", exclusive=True,
    container_image=None, container_mounts=[], env_vars={"NCCL_DEBUG": "INFO", "HF_TOKEN": "hf_" + 34 * "a"},
    additional_parameters={"requeue": True}, srun_args=["--mpi=pmix", "--container-writable", "--cpu-bind=none"],
    setup_lines="module load cuda", retries=2, comment="mine", tunnel=run.LocalTunnel(job_dir="/tmp/jobs"),
)
small = executor.clone()
small.ntasks_per_node = 1
with run.Experiment("chain", executor=executor) as exp:
    one = exp.add(run.Script(inline="echo made > $LAUNCHER_RUN_DIR/../../made"), executor=small, name="prepare data")
    train = run.Partial(llama32_1b_pretrain_config, seq_length=int(sys.argv[1]))
    two = exp.add(train, name="train", dependencies=[one])
    exp.add(run.Script("scripts/evaluate.py", args=["a b"], entrypoint="python"), executor=small, name="evaluate",
            dependencies=[one, two])
    exp.run(detach=True)
"""


def convert(user: User, code: str, *arguments: str, status: int) -> "subprocess.CompletedProcess[str]":
    (user.directory / "experiment.py").write_text(code)
    argv = [str(PYTHON), "-m", "launcher", "import-nemo-run", "experiment.py", *arguments]
    return user.call(argv, status=status, timeout_s=120)


def test_the_job_files_say_what_the_experiment_said_and_list_the_rest(tmp_path: Path) -> None:
    user = prepared(user_of(tmp_path))
    answer = json.loads(convert(user, SLURM, "--json", "--", "1024", status=1).stdout)
    assert [task["name"] for task in answer["tasks"]] == ["prepare-data", "train", "evaluate"]
    assert [task["waits_for"] for task in answer["tasks"]] == [[], ["prepare-data"], ["prepare-data", "train"]]
    train = toml.loads((tmp_path / "jobs/train.toml").read_text())
    assert train == {
        "recipe": "bridge:llama32_1b_pretrain_config",
        "assignments": ["seq_length=1024"],
        "account": "team",
        "partition": "batch",
        "time": "00:05:00",
        "nodes": 1,
        "gpus_per_node": 2,
        "srun_args": ["--cpu-bind=none"],
        "env": ["NCCL_DEBUG=INFO", "HF_TOKEN"],
        "name": "train",
        "sbatch": {"mem": "1G", "exclusive": True, "requeue": True},
    }
    left_out = answer["tasks"][1]["not_translated"]
    for part in (
        "--mpi=pmix",
        "--container-writable",
        "setup_lines",
        "retries",
        "comment",
        "tunnel",
        "value of HF_TOKEN",
    ):
        assert any(part in text for text in left_out), (part, left_out)
    text = (tmp_path / "jobs/train.toml").read_text()
    assert text.count("# Not translated: ") == len(left_out) and "# Waits for: prepare-data" in text
    assert "hf_a" not in text + json.dumps(answer)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "nemo/experiments/chain").exists()


@pytest.mark.timeout(400)
def test_the_lines_that_it_prints_submit_the_tasks_in_their_order(
    slurm_cluster: VirtualCluster, tmp_path: Path
) -> None:
    user = prepared(user_of(tmp_path, slurm_cluster))
    code = SLURM.replace('account="team", ', 'account="", ').replace("exclusive=True,", "")
    code = code.replace(
        "run.Partial(llama32_1b_pretrain_config, seq_length=int(sys.argv[1]))", "run.Script(inline='true')"
    )
    lines = convert(user, code, status=1).stdout.splitlines()
    assert len(lines) == 3
    script = "\n".join(["set -euo pipefail", *lines]).replace("launcher submit", f"{PYTHON} -m launcher submit")
    environ = {"HF_TOKEN": "known", "LAUNCHER_CLUSTER": "virtual"}
    user.call(["bash", "-c", script], environ=environ)
    runs = {run.parent.name: run for run in user.runs()}
    assert list(runs) == ["prepare-data", "train", "evaluate"]
    until(lambda: (runs["evaluate"] / "attempts/000/result.json").exists(), "the last task")
    results = [json.loads((run / "attempts/000/result.json").read_text())["outcome"] for run in runs.values()]
    assert results == ["finished"] * 3
    assert "hello ['a b']" in (runs["evaluate"] / "attempts/000/logs/rank-0000.log").read_text()


SEVERAL = """
import nemo_run as run
from megatron.bridge.recipes.llama.llama3 import llama32_1b_pretrain_config

executor = run.SlurmExecutor(
    account="team", partition="batch", time="00:05:00", ntasks_per_node=1, dependency_type="afterany",
    env_vars={"HF_TOKEN": "hf_" + 34 * "a"}, tunnel=run.LocalTunnel(job_dir="/tmp/jobs"),
)
executor.launcher = run.Torchrun(nsys_profile=True, nsys_trace=["cuda", "osrt"], nsys_gpu_metrics=True)

class Marked(run.Plugin):
    def setup(self, task, executor):
        executor.env_vars["MARK"] = "yes"

task = run.Partial(llama32_1b_pretrain_config)
for title in ("one", "two"):
    with run.Experiment(title, executor=executor) as exp:
        first = exp.add(task, name="a.b")
        exp.add(task, name="a-b")
        exp.add(task, name="last", dependencies=[first])
        exp.run()
run.run(task, executor, Marked(), name="alone")
"""


def test_several_experiments_keep_their_dependencies_plugins_and_profiling(tmp_path: Path) -> None:
    user = prepared(user_of(tmp_path))
    answer = json.loads(convert(user, SEVERAL, "--json", status=1).stdout)
    assert [(task["name"], task["waits_for"]) for task in answer["tasks"]] == [
        *(("a.b", []), ("a-b", []), ("last", ["a.b"])),
        *(("a.b-2", []), ("a-b-2", []), ("last-2", ["a.b-2"]), ("alone", [])),
    ]
    assert [line.partition("=")[0] for line in answer["submit"]][::3][:2] == ["job_1", "job_4"]
    assert '"dependency=afterany:${job_1:?}"' in answer["submit"][2]
    assert '"dependency=afterany:${job_4:?}"' in answer["submit"][5]
    alone = toml.loads((tmp_path / "jobs/alone.toml").read_text())
    assert alone["env"] == ["HF_TOKEN", "MARK=yes"]
    assert (alone["nsys"], alone["nsys_trace"], alone["gpu_metrics"]) == (True, "cuda,osrt", True)
    assert not any("torchrun" in text for text in answer["tasks"][0]["not_translated"])


WRONG: list[tuple[str, tuple[str, ...], int, str]] = [
    (SLURM, (), 3, "the script failed: IndexError"),
    ("print('nothing')", (), 2, "the script runs no experiment of NeMo-Run"),
    ("raise SystemExit(4)", (), 3, "the script ended with status 4"),
    (
        "import nemo_run as run\nwith run.Experiment('x') as e:\n    "
        "e.add([run.Script(inline='a')] * 2, name='g')\n    e.run()",
        (),
        2,
        "task g is a group of commands in one job",
    ),
    (
        "import nemo_run as run\nwith run.Experiment('x') as e:\n    e.add(run.Script('no.sh'))\n    e.run()",
        (),
        2,
        "there is no script 'no.sh'",
    ),
    (
        "import nemo_run as run\nfrom launcher.nemo_run import LauncherExecutor\n"
        "with run.Experiment('x', executor=LauncherExecutor(retries=2)) as e:\n    "
        "e.add(run.Script(inline='a'), name='a')\n    e.run()",
        (),
        2,
        "retries starts a failed job again from the beginning",
    ),
    ("", ("--output", "scripts"), 2, "scripts: exists already"),
]


@pytest.mark.parametrize(("code", "arguments", "status", "message"), WRONG, ids=[row[3][:30] for row in WRONG])
def test_what_is_not_an_experiment_is_refused(
    code: str, arguments: tuple[str, ...], status: int, message: str, tmp_path: Path
) -> None:
    user = prepared(user_of(tmp_path))
    done = convert(user, code, *arguments, status=status)
    assert message in done.stderr.replace("\n", " "), done.stderr
    assert not (tmp_path / "jobs").exists() or not list((tmp_path / "jobs").glob("*.toml"))


def test_without_nemo_run_the_extra_is_named(tmp_path: Path) -> None:
    user = user_of(tmp_path)
    (tmp_path / "experiment.py").write_text("")
    done = user.run("import-nemo-run", "experiment.py", status=2)
    assert "launcher.nemo_run needs NeMo-Run" in done.stderr and "`nemo-run`" in done.stderr
    assert "there is no file" in user.run("import-nemo-run", "none.py", status=2).stderr


SIDE_BY_SIDE = """
import launcher
import nemo_run as run
from launcher.nemo_run import LauncherExecutor

task = run.Script("train.sh", args=["--words", "a b"], env={"GREETING": "hello; world"})
theirs = run.SlurmExecutor(
    account="team", partition="batch", time="00:30:00", nodes=2, ntasks_per_node=8, gpus_per_node=8,
    container_image="nvcr.io#nvidia/nemo:26.08", container_mounts=["/data:/data"],
    tunnel=run.LocalTunnel(job_dir="/shared/jobs"), packager=run.Packager(),
)
ours = LauncherExecutor(
    cluster="slurm", account="team", partition="batch", time="0:30:00", nodes=2, gpus_per_node=8,
    run_root="/shared/runs", options={"runtime": "none"},
)
with run.Experiment("side", id="side_1", executor=theirs) as experiment:
    experiment.add(task, name="train")
    experiment.dryrun(delete_exp_dir=False, log=False)
with run.Experiment("other", executor=ours) as experiment:
    experiment.add(task, name="train")
    recipe, assignments, options = experiment.jobs[0].executor.request(task)
    plan = launcher.plan(recipe, *assignments, command="submit", **options)
    for name, text in plan.scripts.items():
        open(name, "w").write(text)
"""


@pytest.mark.slow
def test_the_scripts_of_the_page_are_what_both_executors_write(tmp_path: Path) -> None:
    user = prepared(user_of(tmp_path))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("srun", "sbatch"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    (tmp_path / "train.sh").write_text("true\n")
    (tmp_path / "side.py").write_text(SIDE_BY_SIDE)
    environ = {"PATH": f"{programs}:{user.environ['PATH']}", "LAUNCHER_CLUSTER": ""}
    user.call([str(PYTHON), "side.py"], environ=environ)
    page = (ROOT / "docs/how-to/nemo-run.md").read_text()
    theirs, ours = (
        page.partition(f"<!-- {name} -->\n```\n")[2].partition("```")[0]
        for name in ("nemo-run.sbatch", "launcher.sbatch")
    )
    (written,) = (tmp_path / "nemo").rglob("train_sbatch.sh")
    assert theirs.strip() == written.read_text().strip()
    identity = re.compile(r"\d{8}-\d{6}-[0-9a-f]{12}(:[0-9a-f]{12})?|--export=.*")
    own = [identity.sub("ID", line) for line in (tmp_path / "sbatch.sh").read_text().splitlines()]
    for line in filter(None, ours.splitlines()):
        assert identity.sub("ID", line) in own, line
    assert "export GREETING='hello; world'" in (tmp_path / "step.sh").read_text()
