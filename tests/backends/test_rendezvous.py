"""Where ranks meet: the address and the ports are the cluster profile's, and the doctor tests the same.

Cost: one cluster of two nodes, about 20 s.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.backends.running import PROFILE, TOY, User, user_of
from tests.support.slurm.config import ClusterOptions
from tests.support.slurm.virtual_cluster import VirtualCluster

SHAPE = ClusterOptions(nodes=2, ephemeral_ports="10000 65535")


@pytest.fixture
def user(tmp_path: Path, shaped_cluster: VirtualCluster) -> User:
    if not shaped_cluster.namespaces:
        pytest.skip("nodes with names of their own need namespaces")
    return user_of(tmp_path, shaped_cluster)


def profile(user: User, *lines: str) -> None:
    (user.directory / "clusters/virtual.toml").write_text("\n".join([PROFILE, "[rendezvous]", *lines, ""]))


def trained(user: User, cluster: VirtualCluster, backend: str) -> list[dict[str, Any]]:
    """Return the environment of each rank of a run on both nodes."""
    common = ("small.py", "--entrypoint", TOY, "--nodes", "2")
    if backend == "allocation":
        user.salloc("run", *common, options=("-N2", "--ntasks-per-node=2"))
        run = user.runs()[-1]
    else:
        answer = json.loads(user.run("submit", *common, "--json").stdout)
        assert cluster.wait(answer["job"], "COMPLETED", "FAILED") == "COMPLETED"
        run = Path(answer["run_dir"])
    return [note["environment"] for note in user.seen(run)]


@pytest.mark.parametrize("backend", ["allocation", "batch"])
@pytest.mark.parametrize(
    ("line", "address"),
    [
        ('suffix = "-ib"', "n1-ib"),
        ('interface = "lo"', "127.0.0.1"),
        ('command = "echo $(hostname).example"', "n1.example"),
    ],
)
def test_the_address_is_the_profiles(
    user: User, shaped_cluster: VirtualCluster, line: str, address: str, backend: str
) -> None:
    profile(user, line, 'ports = "6000-6999"')
    seen = trained(user, shaped_cluster, backend)
    assert len(seen) == 4
    assert {rank["MASTER_ADDR"] for rank in seen} == {address}
    assert all(6000 <= int(rank["MASTER_PORT"]) <= 6999 for rank in seen)
    if "interface" in line:
        names = {(rank["GLOO_SOCKET_IFNAME"], rank["NCCL_SOCKET_IFNAME"]) for rank in seen}
        assert names == {("lo", "=lo")}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('interface = "ib7"', "n1 has no address at the interface ib7, which the profile names"),
        ('command = "echo a b"', "rendezvous.command printed no address on n1: 'a b'"),
    ],
)
def test_an_address_that_is_not_there_ends_the_run_with_the_reason(
    user: User, shaped_cluster: VirtualCluster, line: str, words: str
) -> None:
    profile(user, line)
    answer = json.loads(user.run("submit", "small.py", "--entrypoint", TOY, "--json").stdout)
    assert shaped_cluster.wait(answer["job"], "COMPLETED", "FAILED") == "FAILED"
    assert words in (Path(answer["run_dir"]) / "sbatch.log").read_text()


def test_the_doctor_meets_at_the_same_place_and_looks_at_the_ports(user: User) -> None:
    profile(user, 'suffix = "-ib"')
    checks = doctor(user)
    assert checks["ports"]["verdict"] == "warn"
    assert "10000 to 65535" in checks["ports"]["reason"]
    assert checks["rendezvous"]["verdict"] == "ok"
    profile(user, 'suffix = "-ib"', 'ports = "6000-6999"')
    assert doctor(user)["ports"]["verdict"] == "ok"
    profile(user, 'suffix = "-nowhere"')
    checks = doctor(user, "--rendezvous-timeout", "3")
    assert checks["rendezvous"]["verdict"] == "fail"
    assert "n1-nowhere:" in checks["rendezvous"]["reason"]
    assert "[rendezvous] in the cluster profile" in checks["rendezvous"]["remedy"]


def doctor(user: User, *words: str) -> dict[str, dict[str, Any]]:
    """Return the checks of the second node."""
    answer = json.loads(user.run("doctor", "--nodes=2", "--quick", *words, "--json", status=None).stdout)
    (node,) = (each for each in answer["nodes"] if each["node"] == "n2")
    return {check["name"]: check for check in node["checks"]}
