"""A verdict in every case, on a real Slurm of virtual nodes with the toy program: about 10 s on an idle machine."""

import json
from pathlib import Path

import pytest

from tests.backends.running import TOY, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until

BATCH = ("--nodes", "2", "--entrypoint", TOY, "--json")


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    return user_of(tmp_path, slurm_cluster)


@pytest.mark.parametrize(
    "options",
    [
        ("--sbatch", "gpus=4"),
        ("--sbatch", "gpus-per-node=2", "--sbatch", "cpus-per-gpu=2", "--sbatch", "mem-per-gpu=10M"),
    ],
    ids=["for the whole job", "for each GPU"],
)
@pytest.mark.fault("verdict with the job's GPU variables")
def test_the_verdict_does_not_take_the_resources_of_the_training(user: User, options: tuple[str, ...]) -> None:
    done = user.run("submit", "small.py", *BATCH, "toy.iters=2", "--follow", *options)
    assert json.loads(done.stdout)["outcome"] == "finished"


@pytest.mark.fault("login clock ahead", "clocks, numbers and ranges")
def test_a_login_node_whose_clock_is_ahead(user: User) -> None:
    done = user.run("submit", "small.py", *BATCH, "toy.iters=2", "--name", "early", "--follow")
    run = Path(json.loads(done.stdout)["run_dir"])
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    ahead = [json.dumps({**event, "time": event["time"] + 300}) for event in journal]
    (run / "journal.jsonl").write_text("".join(f"{line}\n" for line in ahead))
    (status,) = json.loads(user.run("status", "early", "--json").stdout)["runs"]
    assert (status["phase"], status["attempt"], status["iteration"]) == ("finished", "000", 2)
    _, job, started, _ = (run / "attempts/000/start").read_text().split()
    assert (job, abs(float(started) - journal[0]["time"]) < 60) == (status["job"], True)


def test_a_signal_to_the_batch_script_does_not_end_it(user: User, slurm_cluster: VirtualCluster) -> None:
    started = json.loads(user.run("submit", "small.py", *BATCH, "toy.iters=40", "toy.seconds=0.1").stdout)
    metrics = Path(started["run_dir"]) / "attempts/000/metrics.jsonl"
    wait_until(metrics.exists, "the training to begin", slurm_cluster)
    slurm_cluster.run("scancel", "--batch", "--signal=USR1", started["job"])
    assert slurm_cluster.wait(started["job"], "COMPLETED", "FAILED") == "COMPLETED"
    assert json.loads((metrics.parent / "result.json").read_text())["outcome"] == "finished"
