"""A verdict in every case, on a real Slurm of virtual nodes with the toy program: about 10 s on an idle machine."""

import json
from pathlib import Path

import pytest

from tests.backends.running import TOY, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster

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
def test_the_verdict_does_not_take_the_resources_of_the_training(user: User, options: tuple[str, ...]) -> None:
    done = user.run("submit", "small.py", *BATCH, "toy.iters=2", "--follow", *options)
    assert json.loads(done.stdout)["outcome"] == "finished"
