"""The shipped profiles: their sources, the keys that they may set, and a plan and scripts made with each."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher._util.resources import resource
from launcher.config.cluster import Cluster
from launcher.config.load import load_cluster
from launcher.config.origins import Origin, origins, read_reasons
from launcher.discovery.image import NcclNetPlugin
from launcher.planning.model import Plan
from launcher.scripts import scripts
from tests.support.building import image, plan
from tests.support.quick import few

HOME = {"HOME": "/nowhere"}
NAMES = sorted(path.stem for path in resource("configs/clusters").glob("*.toml"))
BASES = ("aws-efa", "gcp-gib", "local", "slurm")
SITES = [name for name in NAMES if name not in BASES]
EFA = [name for name in NAMES if name.startswith("aws-")]

# What the launcher itself decides with a profile, rather than what is true of a site.
CHOICES = {("extends",), ("description",), ("scheduler",), ("device",)}
SOURCE = re.compile(r"https://[\w.-]+/\S+|\b[\w.-]+/[\w.-]+:[\w./-]+@[0-9a-f]{7,40}\b")


def profile(name: str) -> Cluster:
    return load_cluster(name, HOME)


@pytest.mark.parametrize("name", NAMES)
def test_each_value_has_a_source_beside_it(name: str) -> None:
    path = resource("configs/clusters") / f"{name}.toml"
    missing = [
        key
        for key, (value, reason) in read_reasons(path.read_text()).items()
        if key not in CHOICES and (key, value) != (("runtime",), "auto") and not SOURCE.search(reason or "")
    ]
    assert missing == []


@pytest.mark.parametrize("name", SITES)
def test_a_profile_of_a_site_says_what_its_nodes_are_and_not_who_uses_them(name: str) -> None:
    found = profile(name)
    assert None not in (found.fabric, found.gpus_per_node, found.gpu, found.architecture)
    assert (found.partition, found.account, found.qos, found.image, found.run_root) == (None,) * 5
    grace = found.gpu in ("GB200", "GB300")
    assert found.architecture == ("aarch64" if grace else "x86_64")
    assert (found.nvlink_domain_nodes, found.gpus_per_node) == ((18, 4) if grace else (1, 8))
    assert found.network == ("warn" if name.startswith("dgx-") else "require")
    assert found.runtime == "pyxis" and found.directives["exclusive"] is True
    # A recipe's own value is tuned for its model: https://github.com/NVIDIA/Megatron-LM
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in found.env


@pytest.mark.parametrize(
    ("name", "efa", "gpus", "further"),
    [
        ("aws-p4d", 4, 8, {}),
        ("aws-p5", 32, 8, {}),
        ("aws-p5en", 16, 8, {}),
        ("aws-p6-b200", 8, 8, {}),
        ("aws-p6-b300", 16, 8, {}),
        ("aws-p6e-gb200", 4, 4, {"NCCL_MNNVL_ENABLE": "1", "NCCL_NVLS_ENABLE": "1"}),
    ],
)
def test_efa_by_instance(name: str, efa: int, gpus: int, further: dict[str, str]) -> None:
    found = profile(name)
    assert (found.fabric, found.nics_per_node, found.gpus_per_node) == ("efa", efa, gpus)
    stated = {"FI_PROVIDER": "efa", "FI_EFA_USE_HUGE_PAGE": "0", "NCCL_SOCKET_IFNAME": "^docker,lo,veth"}
    assert found.env == {"OMP_NUM_THREADS": "1", **stated, **further}


@pytest.mark.parametrize("name", EFA)
def test_what_current_efa_stacks_do_themselves_is_left_to_them(name: str) -> None:
    """aws-ofi-nccl sets buffers, chunks and policies for each instance; the plugin is looked up in the image."""
    obsolete = r"FI_EFA_(USE_DEVICE_RDMA|FORK_SAFE|SET_CUDA_SYNC_MEMOPS|ENABLE_SHM_TRANSFER)|RDMAV_.*"
    tuned = r"NCCL_(PROTO|ALGO|BUFFSIZE|\w+CHUNKSIZE|NETDEVS_POLICY|NET_FORCE_FLUSH|MIN_\w*CHANNELS)"
    looked_up = r"NCCL_NET|NCCL_NET_PLUGIN|NCCL_TUNER_PLUGIN|NCCL_TOPO_FILE|LD_LIBRARY_PATH"
    found = profile(name)
    pattern = re.compile(f"{obsolete}|{tuned}|{looked_up}")
    assert [each for each in (*found.env, *found.host_env) if pattern.fullmatch(each)] == []


CW = {
    "NCCL_SOCKET_IFNAME": "eth0",
    "NCCL_IB_HCA": "ibp",
    "UCX_TLS": "tcp",
    "UCX_NET_DEVICES": "eth0",
    "OMPI_MCA_coll_hcoll_enable": "0",
    "PMIX_MCA_gds": "^ds12",
    "NCCL_NET_PLUGIN": "none",
}
AZURE_H100 = {
    "NCCL_TOPO_FILE": "/opt/microsoft/ndv5-topo.xml",
    "NCCL_PXN_DISABLE": "1",
    "NCCL_MIN_NCHANNELS": "32",
    "NCCL_P2P_NET_CHUNKSIZE": str(2 * 1024 * 1024),
    "NCCL_IB_PCI_RELAXED_ORDERING": "1",
    "NCCL_IB_QPS_PER_CONNECTION": "4",
    "NCCL_IGNORE_CPU_AFFINITY": "1",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "UCX_TLS": "rc",
}
CW_GB200 = {
    **CW,
    "NCCL_NET_GDR_C2C": "1",
    "NCCL_MNNVL_ENABLE": "1",
    "NCCL_CUMEM_ENABLE": "1",
    "NCCL_SHM_DISABLE": "0",
}
AZURE_GB200 = {
    "NCCL_MNNVL_ENABLE": "1",
    "NCCL_NVLS_ENABLE": "1",
    "NCCL_SHM_DISABLE": "1",
    "NCCL_DMABUF_ENABLE": "1",
    "NCCL_IB_SL": "1",
    "NCCL_NET_GDR_LEVEL": "PHB",
    "NCCL_NET_GDR_C2C": "1",
    "NCCL_IB_QPS_PER_CONNECTION": "4",
}
CW_GB300_ROCE = {
    **CW_GB200,
    "NCCL_IB_ADDR_FAMILY": "AF_INET6",
    "NCCL_IB_ADDR_RANGE": "fd02::/16",
    "NCCL_IB_TC": "96",
    "NCCL_IB_ADAPTIVE_ROUTING": "1",
}
OCI_GB200 = {
    "NCCL_IB_TC": "41",
    "NCCL_IB_GID_INDEX": "3",
    "NCCL_IB_RETRY_CNT": None,
    "NCCL_IB_QPS_PER_CONNECTION": "4",
    "NCCL_MNNVL_ENABLE": "1",
    "NCCL_NET_PLUGIN": "none",
}
OCI = {"NCCL_IB_TC": "41", "NCCL_IB_SL": "0", "NCCL_IB_TIMEOUT": "22", "NCCL_IB_RETRY_CNT": "14"}


@pytest.mark.parametrize(
    ("name", "env", "others"),
    [
        ("coreweave-h100", CW, {"cpus_per_task": None, "mpi": "pmix", "sharp": False, "nics_per_node": 8}),
        ("coreweave-gb200", CW_GB200, {"cpus_per_task": None, "topology": "block", "gpus_per_node": 4}),
        ("azure-nd-h100-v5", AZURE_H100, {"cpus_per_task": 12, "sharp": True, "nics_per_node": 8}),
        ("azure-nd-gb200-v6", AZURE_GB200, {"cpus_per_task": None, "topology": None, "nics_per_node": 4}),
        ("oci-h100", OCI, {"fabric": "roce", "nics_per_node": 16}),
        ("dgx-h100", {}, {"nics_per_node": 8, "sharp": False}),
        ("dgx-gb200-nvl72", {"NCCL_NET_GDR_LEVEL": "PHB", "NCCL_NET_GDR_C2C": "1"}, {"topology": "block"}),
        ("coreweave-h200", CW, {"gpu": "H200", "nics_per_node": None}),
        ("coreweave-b200", CW, {"gpu": "B200", "nics_per_node": None, "sharp": False}),
        ("coreweave-b300", CW, {"gpu": "B300", "nics_per_node": None}),
        ("coreweave-gb300", CW_GB200, {"gpu": "GB300", "segment_max": 16, "fabric": "infiniband"}),
        ("coreweave-gb300-roce", CW_GB300_ROCE, {"nics_per_node": 16, "segment_max": 16, "fabric": "spectrum-x"}),
        ("azure-nd-h200-v5", AZURE_H100, {"gpu": "H200", "cpus_per_task": 12, "nics_per_node": 8}),
        ("azure-nd-gb300-v6", AZURE_GB200, {"gpu": "GB300", "nics_per_node": 4}),
        ("oci-h200", {**OCI, "NCCL_IB_SPLIT_DATA_ON_QPS": "0"}, {"gpu": "H200", "nics_per_node": 8}),
        ("oci-b200", OCI, {"gpu": "B200", "nics_per_node": 8}),
        ("oci-b300", OCI, {"gpu": "B300", "nics_per_node": 16}),
        ("oci-gb200", OCI_GB200, {"fabric": "roce", "nics_per_node": 8, "topology": None}),
        ("oci-gb300", OCI_GB200, {"gpu": "GB300", "nics_per_node": 8}),
        ("dgx-b200", {}, {"gpu": "B200", "nics_per_node": None}),
        ("dgx-b300", {}, {"gpu": "B300", "nics_per_node": None}),
        ("dgx-gb300-nvl72", {"NCCL_NET_GDR_C2C": "1"}, {"gpu": "GB300", "nics_per_node": 4, "topology": "block"}),
    ],
)
def test_infiniband_and_nvlink_domains_by_site(name: str, env: dict[str, str | None], others: dict[str, Any]) -> None:
    found = profile(name)
    assert {key: found.env.get(key) for key in env} == env
    assert {key: getattr(found, key) for key in others} == others


GIB = "/usr/local/gib"


@pytest.mark.parametrize(
    ("name", "gpu", "gib", "env"),
    [
        ("gcp-a3-ultra", "H200", 8, {"NCCL_SOCKET_IFNAME": "enp0s19,enp192s20"}),
        ("gcp-a4", "B200", 8, {"GLOO_SOCKET_IFNAME": "enp0s19", "NCCL_SOCKET_IFNAME": None}),
        ("gcp-a4x", "GB200", 4, {"GLOO_SOCKET_IFNAME": "enp0s3", "NCCL_SOCKET_IFNAME": None}),
        ("gcp-a4x-max", "GB300", 8, {"NCCL_SOCKET_IFNAME": "eth0,eth1", "NCCL_IB_GID_INDEX": "3"}),
    ],
)
def test_gib_by_machine(name: str, gpu: str, gib: int, env: dict[str, str | None]) -> None:
    found = profile(name)
    assert (found.fabric, found.gpu, found.nics_per_node) == ("gib", gpu, gib)
    assert {key: found.env.get(key) for key in env} == env
    assert found.mounts == (f"{GIB}:{GIB}",)
    assert found.env_prepend == {"LD_LIBRARY_PATH": f"{GIB}/lib64"}
    assert found.env_source == (f"{GIB}/scripts/set_nccl_env.sh",)
    # A variable that the profile sets is not removed, too.
    assert not set(found.env_unset) & set(found.env)
    assert ("NCCL_SOCKET_IFNAME" in found.env_unset) == (env["NCCL_SOCKET_IFNAME"] is None)


def test_fastrak() -> None:
    found = profile("gcp-a3-mega")
    assert (found.fabric, found.nics_per_node, found.mpi) == ("fastrak", 8, "pmi2")
    assert len(found.env["NCCL_FASTRAK_IFNAME"].split(",")) == found.nics_per_node
    assert found.env_prepend == {"LD_LIBRARY_PATH": found.env["NCCL_LIB_DIR"]}
    assert found.env_source == (f"{found.env['NCCL_LIB_DIR']}/nccl-env-profile.sh",)


def test_the_document_has_a_row_for_each() -> None:
    text = (resource("configs").parent / "docs" / "how-to" / "cluster-profiles.md").read_text()
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)) == NAMES


def test_sites_that_contradict_each_other_keep_their_own_values() -> None:
    assert profile("azure-nd-gb200-v6").env["NCCL_SHM_DISABLE"] != profile("coreweave-gb200").env["NCCL_SHM_DISABLE"]
    for name in [name for name in NAMES if name.startswith("oci-")]:
        assert len(set(profile(name).env["NCCL_IB_HCA"].split(","))) == profile(name).nics_per_node
    assert "NCCL_ALGO" not in profile("oci-h100").env
    (mask,) = profile("azure-nd-h100-v5").srun_args
    assert len(mask.split(",")) == profile("azure-nd-h100-v5").gpus_per_node


def test_variables_of_the_containers_hooks_are_set_on_sruns_side() -> None:
    assert profile("coreweave-gb200").host_env == {"NVIDIA_IMEX_CHANNELS": "0"}
    assert profile("azure-nd-gb200-v6").host_env == profile("dgx-h100").host_env == {"MELLANOX_VISIBLE_DEVICES": "all"}


def made(name: str, nodes: int) -> Plan:
    """A plan of a batch job with an image that can use whatever the profile has."""
    found = profile(name)
    inside = image(
        architecture=found.architecture or "x86_64",
        net_plugins=(NcclNetPlugin("/opt/amazon/ofi-nccl/lib/libnccl-net.so", ("Libfabric",)),),
    )
    return plan(profile=found, request={"nodes": nodes}, inside=None if found.runtime == "auto" else inside)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "local"])
@settings(max_examples=few(25), deadline=None)
@given(nodes=st.integers(1, 64))
def test_any_number_of_nodes_gives_a_whole_plan_and_whole_scripts(name: str, nodes: int) -> None:
    found, it = profile(name), made(name, nodes)
    assert it.layout.nodes == nodes and it.world_size == nodes * (found.gpus_per_node or 8)
    directives = dict(it.directives)
    assert directives["nodes"] == str(nodes)
    assert directives["gpus-per-node"] == directives["ntasks-per-node"] == str(it.layout.ranks_per_node)
    if "segment" in directives:
        assert nodes % int(str(directives["segment"])) == 0
    variables = {(each.name, each.scope): each.value for each in it.environment}
    for key, value in found.env.items():
        assert variables[key, "task"] == value
    for key, value in found.host_env.items():
        assert variables[key, "host"] == value
    texts = scripts(it)
    assert set(texts) == {"step.sh", "sbatch.sh"}
    for key, value in found.env.items():
        assert re.search(rf"^export {key}='?{re.escape(value)}'?$", texts["step.sh"], re.MULTILINE), key
    options = re.findall(r"^#SBATCH --([a-z-]+)", texts["sbatch.sh"], re.MULTILINE)
    assert len(options) == len(set(options)) == len(it.directives)


def test_a_users_profile_changes_three_lines(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'extends = "aws-p5"\n'
        "# these are p5e\n"
        'gpu = "H200"\n'
        'partition = "train"  # ours since May\n'
        "[env]\n"
        'NCCL_SOCKET_IFNAME = "en"\n'
    )
    environ = {**HOME, "LAUNCHER_CLUSTERS": str(tmp_path)}
    found = {each.name: each for each in origins("mine", environ)}
    own = {name: each for name, each in found.items() if each.stated.file == mine}
    assert set(own) == {"gpu", "partition", "env.NCCL_SOCKET_IFNAME"}
    assert {name: each.stated.reason for name, each in own.items()} == {
        "gpu": "these are p5e",
        "partition": "ours since May",
        "env.NCCL_SOCKET_IFNAME": None,
    }
    assert replaced(own["gpu"]) == [("H100", "aws-p5.toml")]
    assert replaced(own["partition"]) == []
    assert replaced(own["env.NCCL_SOCKET_IFNAME"]) == [("^docker,lo,veth", "aws-efa.toml")]
    assert found["nics_per_node"].stated.file.name == "aws-p5.toml"
    assert found["env.OMP_NUM_THREADS"].stated.file.name == "slurm.toml"


def replaced(origin: Origin) -> list[tuple[Any, str]]:
    return [(each.value, each.file.name) for each in origin.replaced]


def test_comments_of_all_forms_of_toml() -> None:
    text = (
        "# the file's head\n\n"
        "# why a\n#   in two lines\na = 1\n"
        "b = [  # not read\n  1,\n] # why b\n"
        "c = 3\n\n"
        "# dotted\nenv.X = '1'\n"
        "env.Y = '2'\n"
        "d = {e = 1, f = 2} # both\n"
        "# of the table\n[directives] # also of the table\n"
        "# why mem\nmem = '0'\n# without an owner\n\n"
        "'gpus-per-node' = true\n# the end's\n"
    )
    assert read_reasons(text) == {
        ("a",): (1, "why a\n  in two lines"),
        ("b",): ([1], "why b"),
        ("c",): (3, None),
        ("env", "X"): ("1", "dotted"),
        ("env", "Y"): ("2", None),
        ("d", "e"): (1, "both"),
        ("d", "f"): (2, "both"),
        ("directives", "mem"): ("0", "why mem"),
        ("directives", "gpus-per-node"): (True, None),
    }
