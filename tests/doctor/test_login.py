"""Checks of the login node, with recorded answers."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.contract.checks import Check
from launcher.discovery.host import HostContext
from launcher.doctor.login import cluster, machine, profile
from launcher.doctor.site import CommandOutput, DirectoryState, Site, file_system, probe_directory
from launcher.slurm.info import parse_sinfo
from launcher.slurm.nodes import parse_nodes

GIB = 1024**3
GROUPS = "gpu*|up|4:00:00|3|192|2000000|idle|gpu:h100:8(S:0-1)\ncpu|down|infinite|2|64|500000|idle|(null)\n"
NODES = """\
p5-1|gpu|idle|192|2000000|gpu:h100:8(S:0-1)|none
p5-2|gpu|mixed|192|2000000|gpu:h100:8(S:0-1)|none
p5-3|gpu|drained|192|2000000|gpu:h100:8(S:0-1)|Prolog error|or so
c-1|cpu|idle|64|500000|(null)|none
"""
CONFIG = {
    "AuthType": "auth/munge",
    "ClusterName": "big",
    "MpiDefault": "none",
    "TopologyPlugin": "topology/tree",
    "PropagateResourceLimits": "ALL",
    "PropagateResourceLimitsExcept": "MEMLOCK",
}


def site(values: dict[str, Any] | None = None, request: dict[str, Any] | None = None, **more: Any) -> Site:
    """A cluster of H100 nodes whose profile says so; `values` are the profile's, `more` what was answered."""
    stated = {"name": "big", "gpus_per_node": 8, "gpu": "H100", "runtime": "pyxis", **(values or {})}
    host = HostContext(Path("/home/ann"), {}, "/usr/bin/python3", "ann", "login", 0.0, "id", "nonce", True, 0, None)
    answers: dict[str, Any] = {
        "controllers": "Slurmctld(primary) at ctl is UP",
        "release": (24, 11, 5),
        "config": CONFIG,
        "groups": parse_sinfo(GROUPS),
        "nodes": parse_nodes(NODES),
        "mpi_types": ("none", "pmix", "pmix_v4"),
        "srun_help": "--container-image=IMAGE",
        "munge": CommandOutput("STATUS:          Success (0)\n"),
        "associations": CommandOutput("research|gpu|normal,high\nteaching||normal\n"),
        "files": (65536, 65536),
        **more,
    }
    return Site(Cluster(**stated), Request(**(request or {})), host, **answers)


def checks(given: Site) -> dict[str, Check]:
    found = [each(given) for each in (*cluster.CHECKS, *profile.CHECKS)]
    found += [machine.limits_check(given), machine.runtime_check(given, frozenset())]
    return {check.name: check for check in found}


def test_a_cluster_that_is_as_its_profile_says() -> None:
    found = checks(site())
    assert {check.verdict for check in found.values()} == {"ok"}
    assert found["slurm"].value == "24.11.05, big"
    assert found["nodes"].value == "2 of 3 usable"
    assert found["gpus"].value == "8 on each, h100"
    assert found["time limit"].value == "up to 4:00 h; the profile states none"


@pytest.mark.parametrize(
    ("given", "name", "verdict", "words"),
    [
        (site(controllers="Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP"), "slurm", "warn", "at a"),
        (site(munge=CommandOutput(None, "munge: Failed to access socket")), "munge", "fail", "Failed to access"),
        (site({"partition": "cpu", "device": "cpu"}), "partition", "fail", "not up"),
        (site(request={"nodes": 3}), "nodes", "fail", "p5-3 is drained (Prolog error|or so)"),
        (site(nodelist=("p5-1", "p5-3")), "nodes", "fail", "of the requested nodes"),
        (site({"account": "physics"}), "account", "fail", "no association with account 'physics'"),
        (site({"account": "research", "qos": "urgent"}), "account", "fail", "qos 'urgent'"),
        (site({"gpus_per_node": 4}), "gpus", "fail", "p5-1 has 8"),
        (site({"gpu": "B200"}), "gpus", "warn", "Slurm reports h100"),
        (site(nodes=parse_nodes(NODES.replace("gpu:h100:8(S:0-1)", "gpu:h100:7", 1))), "gpus", "warn", "p5-1 has 7"),
        (site(nodes=parse_nodes(NODES.replace("gpu:h100:8(S:0-1)", "(null)"))), "gpus", "warn", "no GPUs"),
        (site({"cpus_per_task": 32}), "cpus and memory", "fail", "need 256, the smallest node has 192"),
        (site({"time_limit": "8:00:00"}), "time limit", "fail", "up to 4:00 h"),
        (site({"mpi": "pmi2"}), "mpi", "fail", "--mpi=pmi2"),
        (site({"topology": "block"}), "topology", "fail", "--segment"),
        (site(srun_help=""), "runtime", "fail", "pyxis is not loaded"),
        (
            site({"fabric": "efa"}, memlock=65536, config={**CONFIG, "PropagateResourceLimitsExcept": "(null)"}),
            "limits",
            "warn",
            "efa needs it",
        ),
    ],
)
def test_what_is_wrong_is_found_and_nothing_else(given: Site, name: str, verdict: str, words: str) -> None:
    found = checks(given)
    assert found[name].verdict == verdict
    assert words in found[name].reason
    assert {check.name for check in found.values() if check.verdict in ("warn", "fail")} <= {name, "nodes"}


def test_a_partition_that_is_not_there() -> None:
    found = checks(site({"partition": "gone"}))
    assert "there is no partition 'gone'" in found["partition"].reason
    assert "cpu, gpu" in found["partition"].remedy
    nothing = dataclasses.replace(site(), groups=parse_sinfo(GROUPS.replace("*", "")))
    assert cluster.partition_check(nothing).reason == "the profile names no partition, and Slurm has no default"


def test_what_slurm_did_not_say_is_not_ok() -> None:
    silent = checks(site(slurm_error="Unable to contact slurm controller"))
    assert silent.pop("slurm").verdict == "fail"
    assert {check.verdict for check in silent.values()} == {"skip"}
    local = checks(site({"scheduler": "local", "runtime": "none"}))
    assert local.pop("runtime").verdict == "ok"
    assert {check.verdict for check in local.values()} == {"skip"}
    assert (
        cluster.accounts_check(site(associations=CommandOutput(None, "this Slurm keeps no accounts"))).verdict == "skip"
    )
    assert profile.gpus_check(site({"gpus_per_node": None})).verdict == "skip"


def test_what_sbatch_says() -> None:
    refused = CommandOutput(None, "sbatch ended with status 1: allocation failure: Invalid qos specification")
    assert cluster.directives_check(site(), refused).verdict == "fail"
    assert cluster.directives_check(site(), CommandOutput("sbatch: Job 7 to start at ...")).verdict == "ok"
    assert cluster.directives_check(site(), CommandOutput(None, "no run can be planned: x")).verdict == "skip"
    down = CommandOutput(None, "sbatch ended with status 1: Requested node configuration is not available")
    assert cluster.directives_check(site(request={"nodes": 3}), down).verdict == "skip"
    assert cluster.directives_check(site(), down).verdict == "fail"


@pytest.mark.parametrize(
    ("text", "verdict", "value"),
    [
        ("Disk quotas for user ann (uid 1000): none\n", "ok", "none on /home"),
        ("/home 1048576 0 10485760 - 12 0 0 -\n", "ok", "1 of 10 GiB used"),
        ("/home 9961472 10485760 20971520 - 12 0 0 -\n", "warn", "10 of 10 GiB used"),
        ("/home 11534336* 10485760 20971520 6days 12 0 0 -\n", "fail", "11 of 10 GiB used"),
        ("/lustre/very/long/name\n          10485760* 10485760 10485760 - 12 0 0 -\n", "fail", "10 of 10 GiB used"),
    ],
)
def test_quotas(text: str, verdict: str, value: str) -> None:
    check = machine.quota_check(CommandOutput(text), "/home")
    assert (check.verdict, check.value) == (verdict, value)
    assert machine.quota_check(CommandOutput(None, "no program"), "/home").verdict == "skip"


def test_directories(tmp_path: Path) -> None:
    mounts = f"rootfs / ext4 rw 0 0\nnfs:/x {tmp_path} nfs4 rw 0 0\n"
    place = probe_directory(tmp_path / "runs/deep", mounts)
    assert (place.kind, place.exists, place.parent) == ("nfs4", False, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert machine.run_root_check(site(), place).verdict == "ok"
    full = DirectoryState(tmp_path, True, tmp_path, "nfs4", free=2 * GIB)
    assert machine.run_root_check(site(), full).verdict == "warn"
    assert machine.run_root_check(site(), dataclasses.replace(full, free=1)).verdict == "fail"
    assert machine.run_root_check(site(), dataclasses.replace(full, free=900 * GIB, inodes=3)).verdict == "warn"
    locked = DirectoryState(tmp_path, True, tmp_path, "nfs4", error="Permission denied")
    assert machine.run_root_check(site(), locked).verdict == "fail"
    local = DirectoryState(tmp_path, True, tmp_path, "ext4", free=900 * GIB)
    assert "local to one machine" in machine.store_check(site(), local).value
    assert machine.store_check(site({"runtime": "none"}), local).verdict == "skip"
    assert file_system(Path("/proc"), "proc /proc proc rw 0 0\nrootfs / ext4 rw 0 0\n") == "proc"


def test_the_interpreter() -> None:
    assert machine.python_check(CommandOutput("Python 3.12.1\n"), "python3").value == "Python 3.12.1 (python3)"
    assert machine.python_check(CommandOutput("Python 3.9.2\n"), "python3").verdict == "fail"
    assert machine.python_check(CommandOutput(None, "not found"), "python3").verdict == "fail"
    assert machine.python_check(CommandOutput("pypy\n"), "pypy").verdict == "skip"


def test_states_of_nodes() -> None:
    states = (
        "idle",
        "idle*",
        "mixed",
        "allocated",
        "draining",
        "drained*",
        "down",
        "idle~",
        "maint",
        "planned",
        "unknown",
    )
    text = "\n".join(f"n{number}|gpu|{state}|8|1|(null)|none" for number, state in enumerate(states))
    usable = [node.state for node in parse_nodes(text) if node.usable]
    assert usable == ["idle", "mixed", "allocated", "idle~", "planned"]
    twice = parse_nodes("n1|a|idle|8|1|(null)|none\nn1|b|idle|8|1|(null)|none\n")
    assert [node.partitions for node in twice] == [("a", "b")]
