"""A first profile of a live cluster: recorded answers of larger sites, and the real Slurm of virtual nodes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher._util import toml
from launcher._util.errors import RequestError, SlurmError
from launcher._util.shell import LocalShell, Result
from launcher._util.tables import printable
from launcher.config.cluster import Cluster
from launcher.config.load import load_cluster
from launcher.discovery.cluster_probe import gpu_model, write_profile
from launcher.slurm.probe import ClusterProbe, OptionTest, kinds, probe_cluster
from tests.support.recorder import Recorder
from tests.support.slurm.virtual_cluster import VirtualCluster

Refuse = Callable[[Sequence[str]], str | None]

NVL72 = """\
gb200*|up|2-00:00:00|34|144+|870000|idle|gpu:gb200:4(S:0-1)
gb200*|up|2-00:00:00|2|144|870000|down*|gpu:gb200:4(S:0-1)
login|up|8:00:00|2|32|128000|idle|(null)
"""
MIXED = """\
debug|up|30:00|2|96|1000000|idle|gpu:nvidia_a100-sxm4-80gb:8(S:0-1)
train|up|infinite|40|128|2000000|mixed|gpu:h100:8(S:0-1)
train|up|infinite|60|128|2000000|allocated|gpu:h100:8(S:0-1)
train|up|infinite|3|128|1000000|idle|gpu:a100:4
cpu*|up|1-00:00:00|10|64|256000|idle|(null)
"""


def site(
    sinfo: str,
    *,
    refuse: Refuse = lambda _: None,
    config: str = "",
    release: str = "24.05.4",
    pyxis: bool = True,
    partition: str = "MaxTime=2-00:00:00 DefaultTime=01:00:00",
    arch: str = "x86_64",
) -> Recorder:
    """Slurm's commands at a site, as they answer there."""

    def result(argv: Sequence[str], text: str = "", status: int = 0, words: str = "") -> Result:
        return Result(tuple(argv), status, text, words)

    def ask_sinfo(argv: Sequence[str]) -> Result:
        if "--version" in argv:
            return result(argv, f"slurm {release}\n")
        return result(argv, "g001\ng002\n" if "--Node" in argv else sinfo)

    def ask_scontrol(argv: Sequence[str]) -> Result:
        answers = {
            "config": f"ClusterName             = mysite\nMpiDefault              = pmix\n{config}",
            "partition": f"PartitionName=x {partition} State=UP\n",
            "node": f"NodeName=g001 Arch={arch} CoresPerSocket=72 OS=Linux 6.8.0 #1 SMP\n",
            "topology": "BlockName=b1 BlockIndex=0 Nodes=g[001-018] BlockSize=18\n"
            "BlockName=b2 BlockIndex=1 Nodes=g[019-036] BlockSize=18\n",
        }
        return result(argv, next(text for key, text in answers.items() if key in argv))

    def ask_srun(argv: Sequence[str]) -> Result:
        if "--help" in argv:
            return result(argv, "      --container-image=[USER@][REGISTRY#]IMAGE\n" if pyxis else "Usage: srun\n")
        return result(
            argv, "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix\nspecific pmix plugin versions available: pmix_v5\n"
        )

    def ask_sbatch(argv: Sequence[str]) -> Result:
        words = refuse(argv)
        return result(argv, status=1, words=words) if words else result(argv, words="sbatch: Job 7 to start at now\n")

    return Recorder({"sinfo": ask_sinfo, "scontrol": ask_scontrol, "srun": ask_srun, "sbatch": ask_sbatch})


def refusing(**words: str) -> Refuse:
    """Refuses an option by its name, underscores for dashes."""

    def refuse(argv: Sequence[str]) -> str | None:
        for name, text in words.items():
            if any(each.startswith(f"--{name.replace('_', '-')}") for each in argv):
                return f"sbatch: error: {text}\n"
        return None

    return refuse


def loaded(text: str, directory: Path) -> Cluster:
    """The profile as the launcher reads it."""
    (directory / "probed.toml").write_text(text)
    return load_cluster("probed", {"HOME": "/nowhere", "LAUNCHER_CLUSTERS": str(directory)})


BLOCK = "TopologyPlugin          = topology/block\nAccountingStorageType   = accounting_storage/slurmdbd\n"


def test_a_rack_of_nvl72_with_blocks_and_typed_gres(tmp_path: Path) -> None:
    found = probe_cluster(site(NVL72, config=BLOCK, arch="aarch64"))
    text = write_profile(found)
    cluster = loaded(text, tmp_path)
    assert (cluster.partition, cluster.gpus_per_node, cluster.gpu) == ("gb200", 4, "GB200")
    assert (cluster.cpus_per_task, cluster.architecture, cluster.runtime) == (36, "aarch64", "pyxis")
    assert (cluster.topology, cluster.time_limit) == ("block", "2-00:00:00")
    assert cluster.directives == {"gpus-per-node": True, "exclusive": True, "mem": "0"}
    assert (cluster.fabric, cluster.mpi, cluster.account, cluster.nvlink_domain_nodes) == (None, None, None, 1)
    assert "Slurm 24.05.4" in text and "mysite" in cluster.description
    assert "# Further partitions: login" in text
    assert "Slurm's blocks have 18 nodes (scontrol show topology)" in text
    assert "a job that names none gets 01:00:00" in text
    assert "accounting: on (accounting_storage/slurmdbd)" in text
    assert "none, pmi2, pmix, pmix_v5; MpiDefault: pmix" in text


def test_the_partition_that_was_asked_for_and_its_most_frequent_nodes(tmp_path: Path) -> None:
    config = "AccountingStorageType   = (null)\nTopologyPlugin          = topology/tree\n"
    words = "Invalid generic resource (gres) specification"
    shell = site(
        MIXED,
        config=config,
        pyxis=False,
        partition="MaxTime=UNLIMITED DefaultTime=NONE",
        refuse=refusing(gpus_per_node=words, segment="unrecognized option '--segment=1'"),
    )
    text = write_profile(probe_cluster(shell, "train"), "ours")
    cluster = loaded(text, tmp_path)
    assert (cluster.partition, cluster.gpus_per_node, cluster.gpu, cluster.runtime) == ("train", 8, "H100", "auto")
    assert cluster.directives == {"gpus-per-node": False, "gres": True, "exclusive": True, "mem": "0"}
    assert (cluster.topology, cluster.time_limit) == (None, None)
    assert "# sinfo: 100 nodes with 8 GPUs of type h100" in text
    assert "# sinfo: the partition also has 3 nodes with 4 GPUs of type a100" in text
    assert f"# gpus-per-node: sbatch --test-only refuses --gpus-per-node=8: {words}" in text
    assert "accounting: off" in text and cluster.description.startswith("ours, partition train")
    assert "# segment: sbatch --test-only refuses" in text


def test_gres_that_is_accepted_with_its_type_only(tmp_path: Path) -> None:
    def refuse(argv: Sequence[str]) -> str | None:
        untyped = any(each.startswith("--gpus-per-node") or each == "--gres=gpu:8" for each in argv)
        return "sbatch: error: Invalid generic resource (gres) specification\n" if untyped else None

    cluster = loaded(write_profile(probe_cluster(site(MIXED, refuse=refuse), "train")), tmp_path)
    assert cluster.directives["gpus-per-node"] is False and cluster.directives["gres"] == "gpu:h100:8"


def test_every_form_refused_and_options_refused_together(tmp_path: Path) -> None:
    nothing = write_profile(probe_cluster(site(MIXED, refuse=refusing(gres="No.", gpus_per_node="No.")), "train"))
    assert loaded(nothing, tmp_path).directives["gpus-per-node"] is False
    assert "refuses every option that requests GPUs" in nothing

    def refuse(argv: Sequence[str]) -> str | None:
        return "sbatch: error: --mem and --exclusive?\n" if {"--mem=0", "--exclusive"} <= set(argv) else None

    text = write_profile(probe_cluster(site(MIXED, refuse=refuse), "train"))
    cluster = loaded(text, tmp_path)
    assert cluster.directives == {"gpus-per-node": True} and cluster.cpus_per_task is None
    assert "# mem: sbatch --test-only accepts --mem=0 alone, not with the others: --mem and --exclusive?" in text


def test_where_a_plain_job_is_refused_nothing_is_concluded_from_the_other_trials(tmp_path: Path) -> None:
    refuse = refusing(partition="Invalid account or account/partition combination specified")
    text = write_profile(probe_cluster(site(NVL72, refuse=refuse)))
    cluster = loaded(text, tmp_path)
    assert cluster.directives == {"gpus-per-node": True}  # as in the profile that it extends
    assert cluster.cpus_per_task is None and cluster.topology is None
    assert "Slurm does not accept even a plain job (Invalid account" in text
    assert "# mem: unknown" in text and "refuses --mem" not in text


def test_a_controller_that_falls_silent_does_not_refuse(tmp_path: Path) -> None:
    words = "Batch job submission failed: Socket timed out on send/recv operation"
    text = write_profile(probe_cluster(site(NVL72, refuse=refusing(exclusive=words))))
    assert "# exclusive: unknown (sbatch --test-only --exclusive: " in text
    assert "exclusive" not in loaded(text, tmp_path).directives


def test_nodes_without_gpus(tmp_path: Path) -> None:
    text = write_profile(probe_cluster(site(MIXED)))
    cluster = loaded(text, tmp_path)
    assert (cluster.partition, cluster.device, cluster.gpus_per_node) == ("cpu", "cpu", 1)
    assert cluster.directives == {"gpus-per-node": False}
    assert "not set for nodes without GPUs" in text


def test_what_the_site_cannot_be_asked_is_said_to_be_unknown(tmp_path: Path) -> None:
    shell = site(NVL72, partition="", arch="riscv64")
    answers = {**shell.answers}
    del answers["srun"]
    text = write_profile(probe_cluster(Recorder(answers)))
    cluster = loaded(text, tmp_path)
    assert (cluster.architecture, cluster.runtime, cluster.time_limit) == (None, "auto", None)
    for key in ("architecture", "runtime", "time_limit"):
        assert f"# {key}: unknown" in text
    assert "srun --mpi=list: no answer" in text


def test_a_partition_that_is_not_there_and_none_by_default() -> None:
    with pytest.raises(RequestError, match="no partition 'tarin'") as caught:
        probe_cluster(site(MIXED), "tarin")
    assert "Known: debug, train, cpu" in (caught.value.hint or "")
    with pytest.raises(RequestError, match="no default partition"):
        probe_cluster(site(MIXED.replace("*", "")))
    with pytest.raises(SlurmError, match="not found"):
        probe_cluster(Recorder())


def test_each_option_is_tried_and_nothing_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "theirs")
    shell = site(NVL72)
    probe_cluster(shell)
    calls = [(argv, env) for argv, env in zip(shell.asked, shell.environments, strict=True) if argv[0] == "sbatch"]
    assert all(argv[1] == "--test-only" and "--partition=gb200" in argv for argv, _ in calls)
    assert all(env is not None and "SBATCH_ACCOUNT" not in env for _, env in calls)
    tried = {option for argv, _ in calls for option in argv}
    expected = {"--gpus-per-node=4", "--gres=gpu:4", "--gres=gpu:gb200:4", "--exclusive", "--mem=0", "--segment=1"}
    assert expected | {"--cpus-per-task=36"} <= tried


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("h100", "H100"),
        ("nvidia_h100_80gb_hbm3", "H100"),
        ("NVIDIA-GB200", "GB200"),
        ("nvidia_a100-sxm4-80gb", "A100"),
        ("gb200", "GB200"),
        ("tesla", None),
        ("a100+v100", "A100"),
        (None, None),
    ],
)
def test_models_of_gpus(kind: str | None, model: str | None) -> None:
    assert gpu_model(kind) == model


@given(words=st.text(max_size=60), name=st.text(min_size=1, max_size=40), accepted=st.sampled_from([True, False, None]))
def test_whatever_slurm_says_the_profile_can_be_read(words: str, name: str, accepted: bool | None) -> None:
    known = probe_cluster(site(NVL72, config=BLOCK))
    option_tests = {key: OptionTest(test.options, accepted, words) for key, test in known.option_tests.items()}
    settings = {**known.settings, "MpiDefault": words, "AccountingStorageType": words}
    values: dict[str, Any] = {
        **vars(known),
        "option_tests": option_tests,
        "settings": settings,
        "partition": known.partition,
    }
    text = write_profile(
        ClusterProbe(
            **{**values, "baseline": OptionTest((), accepted, words), "combined": OptionTest((), accepted, words)}
        ),
        name,
    )
    read = toml.loads(text)
    assert read["description"].startswith(printable(name))
    Cluster.model_validate({**read, "name": "probed"})


def test_kinds_are_put_together_over_their_states() -> None:
    groups = probe_cluster(site(NVL72)).groups
    assert [(each.nodes, each.gpus) for each in kinds(groups)] == [(36, 4), (2, 0)]


def test_on_a_real_slurm(slurm_cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm_cluster.conf))
    slurm_cluster.wait_idle()
    found = probe_cluster(LocalShell())
    text = write_profile(found)
    cluster = loaded(text, tmp_path)
    assert (cluster.partition, cluster.gpus_per_node, cluster.cpus_per_task) == ("batch", 8, 1)
    assert cluster.directives["gpus-per-node"] is True and cluster.directives["exclusive"] is True
    assert (
        found.baseline is not None
        and found.baseline.accepted
        and found.combined is not None
        and found.combined.accepted
    )
    assert cluster.architecture in ("x86_64", "aarch64")
    short = loaded(write_profile(probe_cluster(LocalShell(), "short")), tmp_path)
    assert (short.partition, short.time_limit) == ("short", "00:10:00")
