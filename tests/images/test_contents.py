"""What an image holds, found in its files."""

import json
import os
import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher._util.shell import LocalShell
from launcher.images.inspect import contents, packages
from launcher.images.inspect.elf import machine, plugin_names
from launcher.images.inspect.plugins import net_names
from launcher.images.inspect.tree import DirectoryTree, SquashTree, Tree
from launcher.images.manifest import Contents, NetworkPlugin
from tests.images.trees import MACHINES, CountingShell, make_tree, needs_compiler, needs_squashfs, pack, tiny_elf

SITE = "usr/local/lib/python3.12/dist-packages"
RDMA = b"\0NCCL RDMA Plugin v10\0UCX\0IBext_v9\0IBext_v10\0SHARP\0"
NEMO: dict[str, str | bytes] = {
    "usr/bin/bash": tiny_elf("aarch64"),
    "usr/bin/python3.12": tiny_elf("aarch64"),
    "etc/environment": (
        "PATH=/usr/local/bin:/usr/bin:/bin\n"
        "LD_LIBRARY_PATH=/opt/hpcx/nccl_spectrum-x_plugin/lib:/usr/local/cuda/lib64:relative::/opt/none\n"
        "NCCL_NET_PLUGIN=spcx\nHF_TOKEN=hf_abc\n"
    ),
    f"{SITE}/torch-2.9.1+cu128.dist-info/METADATA": "",
    f"{SITE}/megatron_core-0.15.0rc8.dist-info/METADATA": "",
    f"{SITE}/transformer_engine-2.8.0.dist-info/METADATA": "",
    f"{SITE}/transformer_engine_cu12-2.8.0.dist-info/METADATA": "",
    f"{SITE}/deep_ep-1.2.1+abc123-py3.12-linux-aarch64.egg/EGG-INFO/PKG-INFO": "",
    f"{SITE}/deep_ep/hybrid_ep_buffer.py": "",
    f"{SITE}/idna-3.7.dist-info/METADATA": "",
    "usr/lib/python3/dist-packages/torch-1.0.dist-info/METADATA": "",
    "usr/lib/python3/dist-packages/viztracer-1.0.egg-info/PKG-INFO": "",
    "usr/lib/aarch64-linux-gnu/libnccl.so.2.28.7": "",
    "usr/lib/aarch64-linux-gnu/pkgconfig/libfabric.pc": "Version: 1.11\n",
    "usr/local/cuda-12.8/version.json": json.dumps({"cuda": {"name": "CUDA SDK", "version": "12.8.1"}}),
    "opt/amazon/efa_installed_packages": "# EFA installer version: 1.47.0\n# Debug packages installed: no\n",
    "opt/amazon/efa/lib/pkgconfig/libfabric.pc": "prefix=/opt/amazon/efa\nName: libfabric\nVersion: 2.3.1amzn4.0\n",
    "opt/hpcx/VERSION": "HPC-X v2.25.1-RC1\n",
    "opt/hpcx/ucx/lib/pkgconfig/ucx.pc": "Version: 1.20.0\n",
    "opt/hpcx/nccl_spectrum-x_plugin/lib/libnccl-net.so.0.0.0": RDMA,
    "opt/nvshmem-3.5/lib/libnvshmem_host.so.3.5.19": "",
    "opt/amazon/ofi-nccl/lib/aarch64-linux-gnu/libnccl-net-ofi.so": (
        b"..\0AWS Libfabric\0Libfabric\0OFI\0not Libfabric\0Initializing aws-ofi-nccl 1.17.3-aws\0ncclGinPlugin_v11\0"
    ),
    "opt/amazon/ofi-nccl/lib/aarch64-linux-gnu/libnccl-tuner-ofi.so": b"\0Libfabric\0",
    "opt/nvidia/nsight-systems/2025.3.1/bin/nsys": "",
    "opt/nvidia/nsight-systems/2024.6.2/bin/nsys": "",
    "etc/launcher/versions.json": json.dumps(
        {"torch": "2.9.1", "deep-ep": "1.2.1", "moe_backends": ["deepep", "uccl"]}
    ),
    "var/lib/dpkg/status": (
        "Package: libnccl-ofi\nStatus: install ok\nVersion: 1.0\n\n"
        "Package: nsight-systems-cli-2025.3\nVersion: 2025.3.1\n\nPackage: zlib\nVersion: 3\n"
    ),
}  # fmt: skip
LINKS = {
    "bin": "usr/bin",
    "usr/bin/sh": "bash",
    "usr/bin/python3": "python3.12",
    "lib": "usr/lib",
    "usr/local/cuda": "/etc/alternatives/cuda",
    "etc/alternatives/cuda": "/usr/local/cuda-12.8",
    "usr/lib/aarch64-linux-gnu/libnccl.so.2": "libnccl.so.2.28.7",
    "opt/hpcx/nccl_spectrum-x_plugin/lib/libnccl-net.so": "libnccl-net.so.0.0.0",
    "opt/hpcx/nccl_spectrum-x_plugin/lib/libnccl-net-spcx.so": "libnccl-net.so.0.0.0",
    "opt/amazon/ofi-nccl/lib/libnccl-net.so": "aarch64-linux-gnu/libnccl-net-ofi.so",
}


def look(tree: Tree) -> Contents:
    return contents.inspect_tree(tree, contents.environment(tree))


def test_a_whole_image_is_described(tmp_path: Path) -> None:
    tree = DirectoryTree(make_tree(tmp_path / "root", NEMO, LINKS))
    found = look(tree)
    assert found.packages == {
        "aws-ofi-nccl": "1.17.3-aws",
        "cuda": "12.8.1",
        "deep-ep": "1.2.1+abc123",
        "efa-installer": "1.47.0",
        "hpcx": "2.25.1-RC1",
        "libfabric": "2.3.1amzn4.0",
        "megatron-core": "0.15.0rc8",
        "nccl": "2.28.7",
        "nsys": "2025.3.1",
        "nvshmem": "3.5.19",
        "torch": "2.9.1+cu128",
        "transformer-engine": "2.8.0",
        "ucx": "1.20.0",
        "viztracer": "1.0",
    }
    spectrum = "/opt/hpcx/nccl_spectrum-x_plugin/lib/libnccl-net.so.0.0.0"
    amazon = "/opt/amazon/ofi-nccl/lib/aarch64-linux-gnu"
    assert found.network_plugins == (
        NetworkPlugin(path=spectrum, kind="net", names=("IBext_v10", "IBext_v9", "NCCL RDMA Plugin v10", "UCX")),
        NetworkPlugin(path=f"{amazon}/libnccl-net-ofi.so", kind="net", names=("AWS Libfabric", "Libfabric", "OFI")),
        NetworkPlugin(path=f"{amazon}/libnccl-tuner-ofi.so", kind="tuner"),
    )
    assert found.moe_backends == ("deepep", "hybridep", "nccl-gin", "nvshmem", "uccl")
    assert found.verified == {"torch": "2.9.1", "deep-ep": "1.2.1"}
    assert (found.python, contents.architecture(tree)) == ("/usr/bin/python3", "aarch64")
    variables = contents.without_secrets(contents.environment(tree))
    assert (variables["HF_TOKEN"], variables["NCCL_NET_PLUGIN"]) == (None, "spcx")


def test_what_the_dockerfile_builds_for_experts_is_found(tmp_path: Path) -> None:
    """From the files that containers/experts.sh leaves in /opt/venv alone."""
    site = "opt/venv/lib/python3.12/site-packages"
    files: dict[str, str | bytes] = {
        "usr/bin/bash": tiny_elf("x86_64"),
        "usr/bin/python3.12": tiny_elf("x86_64"),
        "etc/environment": "PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin\n",
        f"{site}/deep_ep-1.2.1+34152ae.dist-info/METADATA": "",
        f"{site}/deep_ep/__init__.py": "",
        f"{site}/deep_ep/hybrid_ep_buffer.py": "",
        f"{site}/nvidia_nvshmem_cu13-3.6.5.dist-info/METADATA": "",
        f"{site}/nvidia/nvshmem/lib/libnvshmem_host.so.3": "",
    }
    links = {"bin": "usr/bin", "opt/venv/bin/python3": "/usr/bin/python3.12"}
    found = look(DirectoryTree(make_tree(tmp_path / "root", files, links)))
    assert found.moe_backends == ("deepep", "hybridep", "nvshmem")
    assert (found.packages["deep-ep"], found.packages["nvshmem"]) == ("1.2.1+34152ae", "3.6.5")
    without = {name: text for name, text in files.items() if "deep_ep" not in name}
    assert look(DirectoryTree(make_tree(tmp_path / "without", without, links))).moe_backends == ("nvshmem",)


@needs_squashfs
def test_any_part_of_it_looks_the_same_packed(tmp_path: Path) -> None:
    """Trees with some of the files and links of a real one: packed and unpacked, the same is found."""
    some = random.Random(5)  # noqa: S311
    names, links = sorted(NEMO), sorted(LINKS)
    for number in range(8):
        share = 1.0 if number == 0 else some.random()
        chosen = {name: NEMO[name] for name in names if some.random() <= share}
        linked = {name: LINKS[name] for name in links if some.random() <= share and name not in chosen}
        if "lib" in linked or "bin" in linked or "usr/local/cuda" in linked:
            assert not any(name.startswith(("lib/", "bin/", "usr/local/cuda/")) for name in chosen)
        root = make_tree(tmp_path / f"{number}", chosen, linked)
        here = DirectoryTree(root)
        shell = CountingShell(old=number == 1)
        packed = SquashTree(pack(root, tmp_path / f"{number}.sqsh"), shell)
        contents.prepare(packed)
        assert contents.architecture(here) == contents.architecture(packed)
        assert contents.environment(here) == contents.environment(packed)
        assert look(here) == look(packed)
        assert len(shell.asked) < 40


def test_an_empty_tree_holds_nothing(tmp_path: Path) -> None:
    tree = DirectoryTree(make_tree(tmp_path / "root", {}))
    contents.prepare(tree)
    assert look(tree) == Contents()
    assert (contents.environment(tree), contents.architecture(tree)) == ({}, None)


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("A=1\nB=two words\n", {"A": "1", "B": "two words"}),
        ("  A=1", {"A": "1"}),
        ("# A=1\n\nB=2\n", {"B": "2"}),
        ("A='x y'\nB=\"q\"  \nC='\nD=\"half\n", {"A": "x y", "B": "q", "C": "'", "D": '"half'}),
        ("A=\"mixed'\n", {"A": "mixed"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("ENROOT_X=1\nexport B=2\n3=4\nplain\n", {}),
        ("A=b=c\nB=\n", {"A": "b=c", "B": ""}),
        ("A=first\nsecond line\n", {"A": "first"}),
        ("P=${HOME}/x:$PATH\n", {"P": "${HOME}/x:$PATH"}),
        ("A=\xff\n", {"A": "\xff"}),
    ],
)
def test_the_environment_is_read_as_enroot_reads_it(tmp_path: Path, text: str, variables: dict[str, str]) -> None:
    assert contents.environment(DirectoryTree(make_tree(tmp_path, {"etc/environment": text}))) == variables


ENVFMT = r"""s/^[[:space:]]\+//;/^#\|^$/d;/^[[:alpha:]_][[:alnum:]_]*=/!d;/^ENROOT_/d"""
QUOTES = r"""s/^\([[:alpha:]_][[:alnum:]_]*\)=["\x27]\(.*\)["\x27][[:space:]]*$/\1=\2/"""


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.text("AB_1= #'\"ENROT\t$x", max_size=14), max_size=5).map("\n".join))
def test_the_environment_equals_the_output_of_the_program_sed(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    done = subprocess.run(
        ["sed", "-e", ENVFMT, "-e", QUOTES],
        input=text,
        capture_output=True,
        text=True,
        check=True,
        env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
    )
    expected = dict(line.split("=", 1) for line in done.stdout.split("\n") if line)
    root = tmp_path_factory.mktemp("environment")
    assert contents.environment(DirectoryTree(make_tree(root, {"etc/environment": text}))) == expected


def test_hostile_files_yield_no_findings(tmp_path: Path) -> None:
    deep = "[" * 100_000
    files: dict[str, str | bytes] = {
        "etc/launcher/versions.json": deep,
        "usr/local/cuda/version.json": deep,
        "opt/hpcx/VERSION": b"\xff\xfe\0",
        "etc/environment": b"A=" + b"x" * (2 << 20),
        f"{SITE}/torch-.dist-info/METADATA": "",
        f"{SITE}/.dist-info/METADATA": "",
        "usr/lib/libnccl-net.so": b"\x7fELF\x02\x01" + os.urandom(5000),
        "bin/sh": b"\x7fELF",
    }
    tree = DirectoryTree(make_tree(tmp_path, files))
    found = look(tree)
    assert found.packages == {"torch": packages.UNKNOWN}
    assert found.verified == {}
    assert contents.environment(tree) == {}
    assert contents.architecture(tree) is None


@pytest.mark.parametrize(
    "text", ['{"moe_backends": "deepep"}', "[1]", '{"moe_backends": [1, null]}', "nonsense", '"x"']
)
def test_odd_declarations_declare_nothing(tmp_path: Path, text: str) -> None:
    tree = DirectoryTree(make_tree(tmp_path, {"etc/launcher/versions.json": text}))
    assert (look(tree).moe_backends, look(tree).verified) == ((), {})


@pytest.mark.parametrize("interpreter", ["opt/venv/bin/python3", "opt/conda/bin/python3", "usr/bin/python3"])
def test_the_packages_of_the_python_on_the_path_count_first(tmp_path: Path, interpreter: str) -> None:
    prefix = interpreter.removesuffix("/bin/python3")
    files: dict[str, str | bytes] = {
        "opt/venv/lib/python3.12/site-packages/torch-1.dist-info/x": "",
        "opt/conda/lib/python3.12/site-packages/torch-2.dist-info/x": "",
        f"{SITE}/torch-3.dist-info/x": "",
        interpreter: "",
        "etc/environment": f"PATH=/nowhere:/{prefix}/bin:/usr/bin\n",
    }
    found = look(DirectoryTree(make_tree(tmp_path, files)))
    assert found.python == f"/{interpreter}"
    assert found.packages["torch"] == {"opt/venv": "1", "opt/conda": "2", "usr": "3"}[prefix]


@pytest.mark.parametrize(
    ("files", "version"),
    [
        ({f"{SITE}/nvidia_nccl_cu12-2.27.3.dist-info/x": "", "usr/lib64/libnccl.so.2.21.5": ""}, "2.27.3"),
        ({"usr/lib64/libnccl.so.2.21.5": ""}, "2.21.5"),
        ({"opt/mine/libnccl.so.2.30.0": "", f"{SITE}/nvidia_nccl_cu13-2.28.9.dist-info/x": ""}, "2.30.0"),
        ({"opt/mine/libnccl.so.2": ""}, packages.UNKNOWN),
        (
            {"var/lib/dpkg/status": "Package: libnccl2\nArchitecture: amd64\nVersion: 2.26.2-1+cuda12.8\n"},
            "2.26.2-1+cuda12.8",
        ),
    ],
)
def test_the_nccl_that_is_loaded_counts(tmp_path: Path, files: dict[str, str], version: str) -> None:
    tree = DirectoryTree(make_tree(tmp_path, {**files, "etc/environment": "LD_LIBRARY_PATH=/opt/mine\n"}))
    assert look(tree).packages["nccl"] == version


@pytest.mark.parametrize("nccl", ["2.27.9", "2.28.0", None])
def test_gin_needs_a_new_nccl_and_a_plugin_that_has_it(tmp_path: Path, nccl: str | None) -> None:
    files: dict[str, str | bytes] = {"usr/lib/libnccl-net.so": b"\0ncclGinPlugin_v13\0"}
    if nccl:
        files[f"usr/lib64/libnccl.so.{nccl}"] = ""
    assert look(DirectoryTree(make_tree(tmp_path, files))).moe_backends == (("nccl-gin",) if nccl == "2.28.0" else ())


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_the_machine_of_a_program(name: str) -> None:
    assert machine(tiny_elf(name)) == name
    assert machine(b"\x7fELF\x02\x02" + bytes(12) + b"\x00\x16" + bytes(50)) == "s390x"
    assert machine(b"#!/bin/sh\n" + bytes(50)) is None
    assert machine(tiny_elf(name)[:18] + struct.pack("<H", 9999)) == "machine-9999"


PLUGIN = """
struct net { const char* name; int (*init)(void); };
static int init(void) { return 0; }
struct net ncclNetPlugin_v8 = {"Old Name", init};
struct net ncclNetPlugin_v10 = {"Site Fabric", init};
struct net unrelated = {"Unrelated", init};
struct net ncclNetPlugin_v11;
const char* later(void) { return "IBext_v10"; }
const char* message(void) { return "using Libfabric here"; }
"""


@needs_compiler
@pytest.mark.parametrize(
    "flags",
    [
        (),
        *(
            pytest.param(flags, marks=pytest.mark.slow)
            for flags in (("-Wl,-z,relro,-z,now", "-s"), ("-Wl,-z,pack-relative-relocs",), ("-O2", "-g"))
        ),
    ],
)
def test_names_are_read_from_the_structures_of_a_real_library(tmp_path: Path, flags: tuple[str, ...]) -> None:
    (tmp_path / "x.c").write_text(PLUGIN)
    argv = ["cc", "-shared", "-fPIC", *flags, "-o", str(tmp_path / "x.so"), str(tmp_path / "x.c")]
    if subprocess.run(argv, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"the linker does not know {flags}")
    library = (tmp_path / "x.so").read_bytes()
    assert plugin_names(library) == ("Site Fabric", "Old Name")
    assert net_names(library) == ("Site Fabric", "Old Name", "IBext_v10")
    some = random.Random(6)  # noqa: S311
    for _ in range(300):  # the outcome of a damaged library does not matter, but it is never another error
        damaged = bytearray(library)
        for _ in range(20):
            damaged[some.randrange(len(damaged))] = some.randrange(256)
        plugin_names(bytes(damaged[: some.randrange(1, len(damaged))]))
        plugin_names(bytes(damaged))


@needs_squashfs
def test_a_real_root_says_what_it_is(debian: Path, image_file: Path) -> None:
    unpacked, packed = DirectoryTree(debian), SquashTree(image_file, LocalShell())
    for tree in (unpacked, packed):
        assert contents.architecture(tree) == os.uname().machine
        assert contents.python(tree, {}) == "/usr/bin/python3"
    assert contents.environment(packed)["NCCL_DEBUG"] == "VERSION"
