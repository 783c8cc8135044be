"""Real Megatron on a real Slurm: the same losses, whatever starts the ranks."""

import json
from pathlib import Path

import pytest

from tests.backends.running import ROOT, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster
from tests.support.warm import warm_python

VANILLA = str(ROOT / "recipes/vanilla_gpt_pretrain.py")
MOE = str(ROOT / "recipes/qwen3_moe_pretrain.py")
SHORT = ("train.train_iters=6", "checkpoint.save=null")

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(1500)]


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    return user_of(tmp_path, slurm_cluster)


def losses(run: Path, attempt: str = "000") -> dict[int, float]:
    lines = (run / "attempts" / attempt / "metrics.jsonl").read_text().splitlines()
    return {entry["iteration"]: entry["loss"] for entry in map(json.loads, lines)}


def local(user: User, ranks: int, *arguments: str) -> dict[int, float]:
    asked = (*arguments, "--cluster", "local", "--gpus-per-node", str(ranks), "--json", "--python", warm_python())
    return losses(Path(json.loads(user.run("run", *asked, timeout_s=400).stdout)["run_dir"]))


def allocated(user: User, nodes: int, ranks: int, *arguments: str) -> dict[int, float]:
    options = (f"-N{nodes}", f"--ntasks-per-node={ranks}")
    asked = (*arguments, "--gpus-per-node", str(ranks), "--json", "--python", warm_python())
    done = user.salloc("run", *asked, options=options, timeout_s=400)
    return losses(Path(json.loads(done.stdout)["run_dir"]))


def batch(
    user: User, cluster: VirtualCluster, nodes: int, ranks: int, *arguments: str, cold: bool = False
) -> dict[int, float]:
    python = () if cold else ("--python", warm_python())
    asked = (*arguments, "-N", str(nodes), "--gpus-per-node", str(ranks), "--json", "--no-check-config", *python)
    answer = json.loads(user.run("submit", *asked).stdout)
    assert cluster.wait(answer["job"], "COMPLETED", "FAILED", timeout_s=400) == "COMPLETED"
    return losses(Path(answer["run_dir"]))


def test_two_ranks_have_the_same_losses_in_every_mode(user: User, slurm_cluster: VirtualCluster) -> None:
    found = [
        local(user, 2, VANILLA, *SHORT),
        allocated(user, 1, 2, VANILLA, *SHORT),
        batch(user, slurm_cluster, 2, 1, VANILLA, *SHORT, cold=True),
    ]
    assert list(found[0]) == [1, 2, 3, 4, 5, 6]
    assert found[0] == found[1] == found[2]


@pytest.mark.soak
@pytest.mark.parametrize(
    "asked",
    [
        (VANILLA,),
        (VANILLA, "model.tensor_model_parallel_size=2"),
        (VANILLA, "model.pipeline_model_parallel_size=2", "model.pipeline_dtype=bf16"),
        (VANILLA, "model.tensor_model_parallel_size=2", "model.sequence_parallel=true"),
        (MOE, "model.expert_model_parallel_size=2"),
    ],
    ids=["DP4", "TP2xDP2", "PP2xDP2", "TP2+SPxDP2", "EP2"],
)
def test_two_nodes_of_two_tasks(user: User, slurm_cluster: VirtualCluster, asked: tuple[str, ...]) -> None:
    found = [
        local(user, 4, *asked, *SHORT),
        allocated(user, 2, 2, *asked, *SHORT),
        batch(user, slurm_cluster, 2, 2, *asked, *SHORT),
    ]
    assert len(found[0]) == 6
    assert found[0] == found[1] == found[2]


@pytest.mark.soak
def test_a_batch_job_is_stopped_and_resumed_with_the_losses_of_an_uninterrupted_run(
    user: User, slurm_cluster: VirtualCluster
) -> None:
    asked = (VANILLA, "train.train_iters=20")
    whole = local(user, 2, *asked)
    submit = ("submit", *asked, "train.exit_interval=10", "--gpus-per-node", "2", "--json", "--no-check-config")
    first = json.loads(user.run(*submit, "--python", warm_python()).stdout)
    slurm_cluster.wait(first["job"], "FAILED", "COMPLETED", timeout_s=400)
    run = Path(first["run_dir"])
    result = json.loads((run / "attempts/000/result.json").read_text())
    assert (result["outcome"], result["reason"], result["iteration"]) == ("stopped", "exit_interval", 10)
    again = json.loads(user.run("submit", "--resume", first["run_id"], "--json", "--no-check-config").stdout)
    assert slurm_cluster.wait(again["job"], "COMPLETED", "FAILED", timeout_s=400) in ("COMPLETED", "FAILED")
    after = losses(run, "001")
    assert list(after) == list(range(11, 21))
    assert {**losses(run), **after} == whole


def test_a_project_trains_where_the_job_starts_after_it_was_deleted(user: User, slurm_cluster: VirtualCluster) -> None:
    """Packages two levels deep, a data file, a relative import and an uncommitted change travel; a secret does not."""
    project = user.directory / "project"
    texts = {
        "trial.py": Path(VANILLA).read_text()
        + "\nimport json\nfrom pathlib import Path\nfrom sizes.small.layers import LAYERS\n_plain = configure\n"
        + 'KNOBS = json.loads((Path(__file__).parent / "conf/knobs.json").read_text())\n\n\n'
        + "def configure():\n    cfg = _plain()\n    cfg.model.num_layers = LAYERS\n"
        + '    cfg.train.train_iters = KNOBS["iterations"]\n    return cfg\n',
        "sizes/__init__.py": "",
        "sizes/small/__init__.py": "",
        "sizes/small/layers.py": "from ..one import ONE\nLAYERS = 2 * ONE\n",
        "sizes/one.py": "ONE = 1\n",
        "conf/knobs.json": '{"iterations": 9}',
        "secrets_local.py": "TOKEN = 1\n",
    }
    for name, text in texts.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    for command in (("init", "-q"), ("add", "trial.py", "sizes", "conf"), ("commit", "-qm", "first")):
        user.call(["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@example.com", *command])
    (project / "conf/knobs.json").write_text('{"iterations": 4}')

    asked = ("project/trial.py", "--nodes=1", "--gpus-per-node=1", "--json", "--python", warm_python())
    answer = json.loads(user.run("submit", *asked, "checkpoint.save=null", "--sbatch", "hold").stdout)
    run = Path(answer["run_dir"])
    project.rename(user.directory / "gone")
    slurm_cluster.run("scontrol", "release", answer["job"])
    assert slurm_cluster.wait(answer["job"], "COMPLETED", "FAILED", timeout_s=400) == "COMPLETED"
    assert list(losses(run)) == [1, 2, 3, 4]
    assert not list(run.rglob("secrets_local*"))
    source = json.loads((run / "plan.json").read_text())["source"]
    assert (source["changed"], '+{"iterations": 4}' in source["diff"]) == (["conf/knobs.json"], True)


def test_what_stays_behind_is_named_by_the_check(user: User) -> None:
    (user.directory / "knobs.json").write_text("{}")
    (user.directory / "trial.py").write_text(
        "from pathlib import Path\n\n\n"
        'def configure():\n    return (Path(__file__).parent / "knobs.json").read_text()\n'
    )
    asked = ("plan", "trial.py", "--cluster", "local", "--check-config", "--python", warm_python())
    assert "--ship knobs.json" in user.run(*asked, status=2).stderr


KILLED = """

import os, signal, threading, time
from pathlib import Path


def _kill_this_process():
    metrics = Path(os.environ["LAUNCHER_RUN_DIR"], "attempts/000/metrics.jsonl")
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 9:
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)


if os.environ.get("LAUNCHER_ATTEMPT") == "000":
    threading.Thread(target=_kill_this_process, daemon=True).start()
"""


@pytest.mark.slurm
def test_a_killed_rank_is_continued_with_the_losses_of_an_uninterrupted_run(
    user: User, slurm_cluster: VirtualCluster
) -> None:
    """With --keep-going, by itself, from the newest checkpoint that is whole. About 40 s.

    Its ranks start cold: Megatron's writer of checkpoints looks for its own process in the /proc of the virtual node.
    """
    asked = ("train.train_iters=24", "checkpoint.save_interval=4")
    whole = local(user, 1, VANILLA, *asked)
    (user.directory / "killed.py").write_text(Path(VANILLA).read_text() + KILLED)
    options = ("--keep-going", "--gpus-per-node=1", "--json", "--no-check-config")
    answer = json.loads(user.run("submit", "killed.py", *asked, *options).stdout)
    run = Path(answer["run_dir"])
    assert slurm_cluster.wait(answer["job"], "COMPLETED", "FAILED", timeout_s=400) == "COMPLETED"
    first, after = losses(run), losses(run, "001")
    assert min(after) in (5, 9), "it has continued from a checkpoint"
    assert {**first, **after} == whole
    assert all(first[step] == after[step] for step in first.keys() & after.keys())
    decided = json.loads((run / "attempts/000/next.json").read_text())
    assert (decided["kind"], decided["action"]) == ("machine", "requeue")
