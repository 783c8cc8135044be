"""Real Megatron on a real Slurm, with a log of NCCL's put in place of the one that gloo does not write."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.backends.running import PROFILE, ROOT, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster
from tests.support.warm import warm_python

LOGS = ROOT / "tests/job/nccl_logs"

# What NCCL would do: write to the file that NCCL_DEBUG_FILE names.
RECIPE = """
import os, pathlib, socket
from vanilla_gpt_pretrain import configure as vanilla

def configure(said: str):
    name = os.environ["NCCL_DEBUG_FILE"].replace("%h", socket.gethostname()).replace("%p", str(os.getpid()))
    pathlib.Path(name).write_text(pathlib.Path(said).read_text())
    return vanilla()
"""

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(900)]


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    found = user_of(tmp_path, slurm_cluster)
    (tmp_path / "small.py").write_text(RECIPE)
    (tmp_path / "vanilla_gpt_pretrain.py").write_bytes((ROOT / "recipes/vanilla_gpt_pretrain.py").read_bytes())
    return found


def submitted(user: User, cluster: VirtualCluster, log: str, policy: str, iterations: int, *more: str) -> Path:
    """Train on two nodes that are to have EFA, while their NCCL says what is in `log`."""
    expected = f'fabric = "efa"\nnetwork = "{policy}"\n'
    (user.directory / "clusters/virtual.toml").write_text(PROFILE + expected)
    asked = (
        "small.py",
        f"said={LOGS / log}.log",
        f"train.train_iters={iterations}",
        "checkpoint.save=null",
        *("--env", f"NCCL_DEBUG_FILE={user.directory}/nccl.%h.%p", "--env", "NCCL_DEBUG=INFO"),
        *("--nodes", "2", "--gpus-per-node", "1", "--json", "--no-check-config", *more),
    )
    answer = json.loads(user.run("submit", *asked).stdout)
    cluster.wait(answer["job"], "COMPLETED", "FAILED", timeout_s=600)
    return Path(answer["run_dir"])


def result(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "attempts/000/result.json").read_text())
    return content


def test_a_run_without_the_network_that_it_requires_ends_with_the_reason(
    user: User, slurm_cluster: VirtualCluster
) -> None:
    run = submitted(user, slurm_cluster, "efa_socket", "require", 100_000)
    assert json.loads((run / "argv.json").read_text())["options"]["network"] == {
        "policy": "require",
        "fabric": "efa",
        "nodes": 2,
        "ranks_per_node": 1,
        "nvlink_domain": False,
        "nics_per_node": None,
        "gdr": True,
        "sharp": False,
    }
    found = result(run)
    logs = "".join(path.read_text()[-3000:] for path in run.glob("attempts/000/logs/*"))
    assert found["outcome"] == "failed", logs
    first = found["first_failing_rank"]
    assert first["cause"] == "network", logs
    sentence = (
        f"node {first['host']}: NCCL uses network Socket, and efa is expected: NCCL's plugin for EFA was not found"
    )
    assert first["what"].startswith(sentence)
    assert "NCCL INFO NET/Plugin: Could not find: libnccl-net.so]" in first["what"]
    status = user.run("status", str(run), status=None).stdout
    assert sentence in " ".join(status.split())
    log = user.run("logs", str(run)).stdout
    assert f"error: rank {first['rank']}: {sentence}" in log


def test_a_run_that_is_only_warned_goes_on_and_each_node_reports(user: User, slurm_cluster: VirtualCluster) -> None:
    run = submitted(user, slurm_cluster, "efa_tcp", "warn", 6, "--python", warm_python())
    assert result(run)["outcome"] == "finished"
    reports = [json.loads(path.read_text()) for path in sorted((run / "attempts/000/network").glob("*.json"))]
    assert [(one["rank"], one["node"], one["verdict"]) for one in reports] == [(0, 0, "bad"), (1, 1, "bad")]
    events = [json.loads(line) for line in (run / "attempts/000/timeline.jsonl").read_text().splitlines()]
    assert [event["verdict"] for event in events if event["event"] == "network"] == ["bad"]
    status = json.loads(user.run("status", str(run), "--json").stdout)["runs"][0]
    assert status["phase"] == "finished"
    assert "libfabric's provider is tcp" in status["network"]
    assert "network: rank 0: node " in " ".join(user.run("status", str(run)).stdout.split())
