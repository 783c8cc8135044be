"""A node that Slurm has lost trains on while the next attempt runs elsewhere. Cost: about 25 s, mostly waiting."""

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from launcher.contract.paths import AttemptPaths
from launcher.contract.verdict import compose
from tests.backends.running import TOY, user_of
from tests.support.rank_ends import has_record, record_of
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until

KEEPS_GOING = ("--keep-going", "toy.iters=400", "toy.seconds=0.1", "toy.save_every=100000")
COMMON = ("small.py", "--nodes=1", "--gpus-per-node=2", f"--entrypoint={TOY}", "--no-check-config")


def pids(cluster: VirtualCluster, *words: str) -> list[int]:
    """The processes of a cluster whose command line has all these words, each at the end of an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            argv = (path / "cmdline").read_bytes().split(b"\0")
            ours = os.fsencode(f"SLURM_CONF={cluster.conf}") in (path / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if ours and all(any(each.endswith(word.encode()) for each in argv) for word in words):
            found.append(int(path.name))
    return found


def freeze(cluster: VirtualCluster, node: str) -> None:
    """Stop slurmd of a node for good; what it has started goes on."""
    found = pids(cluster, "slurmd", node)
    assert found, f"{node} has no slurmd"
    for pid in found:
        os.kill(pid, signal.SIGSTOP)


@pytest.mark.timeout(180)
def test_ranks_on_a_lost_node_save_nothing_more(new_cluster: Callable[..., VirtualCluster], tmp_path: Path) -> None:
    cluster = new_cluster(nodes=2, node_timeout_s=4)
    user = user_of(tmp_path, cluster)
    user.run("submit", *COMMON, "toy.iters=5000", "toy.seconds=0.1", "toy.save_every=2", "--sbatch", "requeue")
    (run,) = user.runs()
    first, second = (AttemptPaths(run / "attempts" / name) for name in ("000", "001"))
    wait_until(first.metrics.exists, "the first attempt", cluster, 30)
    node = cluster.run("squeue", "-h", "-o", "%N").stdout.strip()
    freeze(cluster, node)
    wait_until(second.metrics.exists, "the second attempt elsewhere", cluster, 60)
    for rank in range(2):
        wait_until(partial(has_record, first, rank), "the end of the ranks on the lost node", cluster, 20)
    (job,) = set(cluster.run("squeue", "-h", "-o", "%i").stdout.split())
    assert cluster.run("squeue", "-h", "-o", "%N").stdout.strip() != node
    for rank in range(2):
        record = record_of(first, rank)
        # A save in the moment between the two leases finds that its own was ended.
        assert (record["outcome"], record["reason"]) in (
            ("stopped", f"superseded: attempt 001 (job {job}) owns the run"),
            ("stopped", "superseded: the lease of this attempt was ended"),
        )
    began = json.loads((run / "lease").read_text())["time"]
    saves = [json.loads(line) for line in first.timeline.read_text().splitlines()]
    # The clock is one; the lease has whole seconds.
    assert all(each["time"] <= began + 1 for each in saves if each["event"] == "save")
    result = compose(first, 2, 1, 0.0)
    assert (result["outcome"], result["stopped_by"]) == ("stopped", "superseded")
    assert json.loads(user.run("status", str(run), "--json").stdout)["runs"][0]["phase"] == "running"


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_a_script_on_a_lost_node_requeues_nothing(new_cluster: Callable[..., VirtualCluster], tmp_path: Path) -> None:
    """A node that stood still: its ranks fail and its script goes on after the same job has begun elsewhere.

    A requeue would end that attempt. Cost: 35 s; tests/scripts/test_next_attempt.py has the script's part.
    """
    cluster = new_cluster(nodes=2, node_timeout_s=4)
    user = user_of(tmp_path, cluster)
    gate = tmp_path / "gate"
    fails = ("+toy.fail_rank=0", "+toy.fail_step=5", "+toy.bad_attempts=1", f"+toy.fail_after={gate}")
    user.run("submit", *COMMON, *KEEPS_GOING, *fails)
    (run,) = user.runs()
    first, second = (AttemptPaths(run / "attempts" / name) for name in ("000", "001"))
    wait_until(lambda: first.metrics.exists() and len(first.metrics.read_text().splitlines()) == 4, "it", cluster, 30)
    node = cluster.run("squeue", "-h", "-o", "%N").stdout.strip()
    stopped = [*pids(cluster, "slurm_script"), *pids(cluster, "srun", f"--nodelist={node}")]
    assert len(stopped) >= 2
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    freeze(cluster, node)
    wait_until(second.metrics.exists, "the second attempt elsewhere", cluster, 60)
    decided = first.next_file.read_bytes()
    gate.touch()
    wait_until(partial(has_record, first, 0), "the end of its ranks", cluster, 20)
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: "none follows 000" in (run / "sbatch.log").read_text(), "the end of the first", cluster, 60)
    assert json.loads(decided)["action"] == "requeue"
    assert first.next_file.read_bytes() == decided, "what the owner has decided about it stays"
    state = cluster.run("squeue", "-h", "-o", "%T").stdout.split()
    assert state == ["RUNNING"]
    assert not (second.path.with_name("002")).exists()
    assert json.loads((run / "lease").read_text())["attempt"] == "001"
