"""Megatron-LM's command line as a batch job and in an allocation: the losses of this machine."""

import json
from pathlib import Path

import pytest

from tests.backends.running import User, user_of
from tests.correlate.test_correlate import TINY
from tests.support.slurm.virtual_cluster import VirtualCluster
from tests.support.warm import warm_python

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(1500)]


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    return user_of(tmp_path, slurm_cluster)


def losses(run: str) -> list[float]:
    lines = (Path(run) / "attempts" / "000" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_megatron_lm_has_the_same_losses_in_every_mode(user: User, slurm_cluster: VirtualCluster) -> None:
    words = ("--", *TINY, "--hidden-dropout", "0", "--attention-dropout", "0")
    asked = ("mlm:gpt", "--gpus-per-node", "2", "--json", "--python", warm_python())
    local = json.loads(user.run("run", *asked, "--cluster", "local", *words, timeout_s=400).stdout)
    options = ("-N1", "--ntasks-per-node=2")
    allocated = json.loads(user.salloc("run", *asked, *words, options=options, timeout_s=400).stdout)
    batch = json.loads(user.run("submit", *asked, "-N", "1", *words).stdout)
    assert slurm_cluster.wait(batch["job"], "COMPLETED", "FAILED", timeout_s=400) == "COMPLETED"
    found = [losses(one["run_dir"]) for one in (local, allocated, batch)]
    assert len(found[0]) == 8
    assert found[0] == found[1] == found[2]
    result = json.loads((Path(batch["run_dir"]) / "attempts" / "000" / "result.json").read_text())
    assert (result["outcome"], result["iteration"]) == ("finished", 8)
