"""Cancelling, names of nodes, and what a cluster looks like."""

from collections.abc import Callable

import pytest

from launcher._util.errors import SlurmError
from launcher._util.shell import LocalShell, Result
from launcher.scripts.render import directive
from launcher.slurm import allocation, control, info, nodes
from launcher.slurm.ask import SlurmUnavailableError
from tests.support.recorder import Recorder
from tests.support.slurm.virtual_cluster import VirtualCluster


@pytest.fixture
def here(slurm_cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch) -> VirtualCluster:
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.conf))
    return slurm_cluster


def test_jobs_are_cancelled_and_ended_ones_left_alone(here: VirtualCluster) -> None:
    running, waiting, ended = here.submit("sleep 600"), here.submit("true", "--hold"), here.submit("true")
    here.wait(running, "RUNNING")
    here.wait(ended, "COMPLETED")
    control.cancel([running, waiting, ended, "4000000"], LocalShell())
    assert here.wait(running, "CANCELLED") == here.wait(waiting, "CANCELLED") == "CANCELLED"
    assert here.state(ended) == "COMPLETED"
    control.cancel([], Recorder())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n[1-2,4]", ("n1", "n2", "n4")),
        ("n1,gb[08-10]", ("n1", "gb08", "gb09", "gb10")),
        ("rack[1-2]n[3-4]", ("rack1n3", "rack1n4", "rack2n3", "rack2n4")),
    ],
)
def test_lists_of_nodes(here: VirtualCluster, text: str, names: tuple[str, ...]) -> None:
    assert control.hostnames(text, LocalShell()) == names


def test_a_list_that_slurm_cannot_read_is_an_error(here: VirtualCluster) -> None:
    # scontrol itself ends with status 0 then.
    with pytest.raises(SlurmError, match=r"Invalid hostlist: gb\[01-04\]-ib"):
        control.hostnames("gb[01-04]-ib", LocalShell())


def test_numbers_above_a_thousand_are_read_as_they_are(
    new_cluster: Callable[..., VirtualCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """sinfo writes the CPUs of a node that has 1536 as 1.50K, unless it is asked not to."""
    cluster = new_cluster(nodes=1, slots=1537, gpus=0, memory_mb=2_500_001)
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    shell = LocalShell()
    assert [(group.cpus, group.memory_mb) for group in info.node_groups(shell)] == [(1537, 2_500_001)] * 2
    assert [(node.cpus, node.memory_mb) for node in nodes.read_nodes(shell)] == [(1537, 2_500_001)]
    assert nodes.node_kinds(None, shell) == (nodes.NodeKind(1, 1537, 0, 1),)
    job = cluster.submit("sleep 60", "--exclusive")
    cluster.wait(job, "RUNNING")
    assert [node.cpus for node in allocation.read_allocation(job, shell).nodes] == [1537]


@pytest.mark.parametrize(
    ("text", "number"),
    [("8", 8), ("12+", 12), ("1.50K", 1536), ("9.4K+", 9626), ("2M", 2 << 20), ("0", 0)],
)
def test_numbers_of_sinfo(text: str, number: int) -> None:
    assert info.whole_number(text) == number


@pytest.mark.parametrize("text", ["", "N/A", "-1", "1e3", "٣", "K"])
def test_what_is_not_a_number_is_said_to_be_none(text: str) -> None:
    with pytest.raises(SlurmError, match="is not a number"):
        info.whole_number(text)
    with pytest.raises(SlurmError, match="is not a number"):
        info.parse_sinfo(f"batch*|up|infinite|{text}|64|1000|idle|gpu:8\n")


def test_what_the_cluster_looks_like(here: VirtualCluster) -> None:
    here.wait_idle()
    batch, short = info.node_groups(LocalShell())
    assert batch == info.NodeGroup("batch", True, True, None, 4, 8, 4096, 8, None, "idle")
    assert (short.partition, short.default, short.time_limit_min) == ("short", False, 10)
    settings = info.settings(LocalShell())
    assert (settings["ClusterName"], settings["MessageTimeout"], settings["KillWait"]) == ("virtual", "10 sec", "2 sec")
    assert info.version(LocalShell()) >= (20, 2)
    assert {"none", "pmi2"} <= set(info.mpi_types(LocalShell()))
    assert ("--container-image" in info.srun_help(LocalShell())) is (here.options.pyxis is not None)


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("(null)", (0, None)),
        ("gpu:8", (8, None)),
        ("gpu:h100:8(S:0-1)", (8, "h100")),
        ("gpu:a100:4(S:0,2),mps:400", (4, "a100")),
        ("gpu:a100:2,gpu:v100:2", (4, "a100+v100")),
        ("tpu:4", (0, None)),
        ("gpu", (1, None)),
    ],
)
def test_gpus_of_a_node(gres: str, expected: tuple[int, str | None]) -> None:
    assert info.parse_gpus(gres) == expected


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("infinite", None), ("10:00", 10), ("4:00:00", 240), ("7-00:00:00", 10080), ("1-12:30:30", 2191), ("n/a", None)],
)
def test_time_limits(text: str, minutes: int | None) -> None:
    assert info.parse_limit(text) == minutes


def test_a_large_site() -> None:
    mixed = "gpu*|up|2-00:00:00|120|128+|1000000+|mixed|gpu:h100:8(S:0-1)"
    text = f"{mixed}\ngpu*|up|2-00:00:00|1|128|1000000|down*|gpu:h100:8\nnoise\n"
    groups = info.parse_sinfo(text)
    assert [(each.nodes, each.cpus, each.gpus, each.state) for each in groups] == [
        (120, 128, 8, "mixed"),
        (1, 128, 8, "down*"),
    ]
    assert {each.time_limit_min for each in groups} == {2880}


def test_mpi_types_as_older_releases_print_them() -> None:
    text = "srun: MPI types are...\nsrun: none\nsrun: pmi2\nsrun: pmix\n"
    assert info.mpi_types(Recorder({"srun": Result(("srun",), 0, "", text)})) == ("none", "pmi2", "pmix")


def test_no_slurm_here() -> None:
    with pytest.raises(SlurmUnavailableError, match="not found"):
        info.node_groups(Recorder())
    with pytest.raises(SlurmUnavailableError, match="not found"):
        info.mpi_types(Recorder())
    silent = Result(("srun",), 1, "", "srun: error: Unable to contact slurm controller (connect failure)\n")
    with pytest.raises(SlurmUnavailableError) as caught:
        info.srun_help(Recorder({"srun": silent}))
    assert caught.value.message == "srun: error: Unable to contact slurm controller (connect failure)"
    assert "SLURM_CONF must name" in (caught.value.hint or "")


@pytest.mark.parametrize("account", ["domain\\ada", "a\\\\b", "a b", "\\", 'say "x"'])
def test_an_account_reaches_slurm_as_it_was_given(slurm_cluster: VirtualCluster, account: str) -> None:
    script = f"#!/bin/bash\n#SBATCH --account={directive(account)}\n#SBATCH --hold\ntrue\n"
    job = slurm_cluster.submit(script)
    assert slurm_cluster.run("squeue", "-h", "-j", job, "-o", "%a").stdout == f"{account}\n"
