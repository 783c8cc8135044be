"""Spare nodes: a check chooses those that train, and a lost one is replaced. Cost: a cluster of four nodes, about 40 s.

Each node has its own /run, so that the scratch directory of one can be spoilt.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backends.running import PROFILE, TOY, user_of
from tests.faults.test_next_attempt import RETRY, losses, status
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until

COMMON = ("small.py", f"--entrypoint={TOY}", "--no-check-config", "--json")


def test_a_bad_node_does_not_train_and_a_lost_one_is_replaced(
    new_cluster: Callable[..., VirtualCluster], tmp_path: Path
) -> None:
    cluster = new_cluster(nodes=4, node_timeout_s=5)
    if not cluster.namespaces or os.geteuid() != 0:
        pytest.skip("a node's own /run needs namespaces, and root")
    user = user_of(tmp_path, cluster)
    profile = tmp_path / "clusters/virtual.toml"
    profile.write_text(PROFILE + 'scratch = "/run/scratch"\n' + RETRY)
    (cluster.directory / "run/n1/scratch").write_text("a file in its place")
    shape = ("--nodes=2", "--spares=1", "--keep-going", "toy.iters=60", "toy.save_every=5", "toy.seconds=0.1")
    assert "spare nodes  up to 1: a check of at most 120 s chooses" in user.run("plan", *COMMON[:3], *shape).stdout
    answer = json.loads(user.run("submit", *COMMON, *shape).stdout)
    run, job = Path(answer["run_dir"]), str(answer["job"])
    first, second = run / "attempts/000", run / "attempts/001"
    metrics = first / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 12, "the training", cluster, 60)
    assert cluster.run("squeue", "-h", "-o", "%D", "-j", job).stdout.strip() == "3", "one more is held"
    assert (first / "nodes").read_text().split() == ["n2", "n3"]
    assert "2 of 3 nodes train, not n1: scratch: " in user.run("status", str(run)).stdout
    assert sorted(json.loads((first / "node_check.json").read_text())["nodes"][0]["failed"]) == ["scratch"]

    # n1 holds the batch script; n2 is lost: another attempt without it, on the spare of before and the fourth node.
    cluster.fail("n2")
    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=lost")
    wait_until((second / "metrics.jsonl").exists, "the second attempt", cluster, 90)
    assert (second / "nodes").read_text().split() == ["n3", "n4"]
    assert cluster.wait(job, "COMPLETED", "FAILED", timeout_s=60) == "COMPLETED"
    told = status(user, run)["history"]
    assert [(each["kind"], each["node_check"]["chosen"]) for each in told] == [
        ("machine", ["n2", "n3"]),
        ("finished", ["n3", "n4"]),
    ]
    assert sorted(losses(run)) == list(range(1, 61))


def test_too_few_good_nodes_end_the_attempt_with_their_names(
    new_cluster: Callable[..., VirtualCluster], tmp_path: Path
) -> None:
    """Three nodes, of which one is good: the job fails with status 1, and nothing has trained."""
    cluster = new_cluster(nodes=3)
    if not cluster.namespaces or os.geteuid() != 0:
        pytest.skip("a node's own /run needs namespaces, and root")
    user = user_of(tmp_path, cluster)
    (tmp_path / "clusters/virtual.toml").write_text(PROFILE + 'scratch = "/run/scratch"\n')
    for node in ("n1", "n3"):
        (cluster.directory / "run" / node / "scratch").write_text("a file in its place")
    answer = json.loads(user.run("submit", *COMMON, "--nodes=2", "--spares=1").stdout)
    assert cluster.wait(str(answer["job"]), "COMPLETED", "FAILED") == "FAILED"
    seen = status(user, Path(answer["run_dir"]))
    assert (seen["phase"], seen["iteration"]) == ("failed", None)
    assert "1 of 3 nodes have passed the check, and 2 are needed; n1: scratch: " in seen["detail"]
    assert "; n3: scratch: " in seen["detail"]
