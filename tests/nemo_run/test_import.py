"""`launcher import-nemo-run`: job files of an experiment, what of it they lack, and that they run."""

import json
import subprocess
from pathlib import Path
from typing import Any

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


def test_the_pages_scripts_are_those_of_today(tmp_path: Path) -> None:
    """The side-by-side part of the page comes from both executors, for the same task."""
    page = (ROOT / "docs/how-to/nemo-run.md").read_text()
    shown: dict[str, Any] = {}
    for name in ("nemo-run.sbatch", "launcher.sbatch"):
        head = f"<!-- {name} -->\n```\n"
        assert head in page
        shown[name] = page.partition(head)[2].partition("```")[0]
    assert "set -evx" in shown["nemo-run.sbatch"] and "#SBATCH --comment=launcher:" in shown["launcher.sbatch"]
