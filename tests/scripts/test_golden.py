"""Scripts byte for byte. `make golden` accepts what is rendered now."""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launcher._util.resources import resource
from launcher.config.load import load_cluster
from launcher.discovery.image import NcclNetPlugin
from launcher.planning.model import Plan
from launcher.scripts import scripts
from tests.support.building import SHELL, allocation, cluster, host, image, plan
from tests.support.quick import few

GOLDEN = Path(__file__).parent.parent / "golden"
COMMANDS = GOLDEN / "commands.json"
PROFILES = GOLDEN / "profiles.json"
SITES = sorted(path.stem for path in resource("configs/clusters").glob("*.toml") if path.stem not in ("local", "slurm"))


def shipped(name: str, nodes: int) -> Plan:
    """A batch job with a profile that ships, in an image that has aws-ofi-nccl."""
    profile = load_cluster(name, {"HOME": "/nowhere"})
    plugin = NcclNetPlugin("/opt/amazon/ofi-nccl/lib/libnccl-net.so", ("Libfabric",))
    inside = image(architecture=profile.architecture, net_plugins=(plugin,))
    changes = ("model.tensor_model_parallel_size=4", "model.expert_model_parallel_size=8")
    return plan(profile=profile, request={"nodes": nodes, "image": "nemo"}, changes=changes, inside=inside)


PLANS: dict[str, Plan] = {
    "local": plan("local", request={"gpus_per_node": 2}),
    "srun": plan("allocation", allocated=allocation(2, 4)),
    "sbatch": plan(request={"nodes": 2, "time": "30:00"}, changes=("train.train_iters=20",)),
    "keep-going": plan(request={"nodes": 2, "keep_going": True, "exclude": "n7", "sbatch": {"hold": True}}),
    "spares": plan(request={"nodes": 2, "spares": 1, "keep_going": True}),
    "pyxis": plan(
        profile=cluster(
            gpus_per_node=8,
            cpus_per_task=12,
            runtime="pyxis",
            image="./megatron lm.sqsh",
            mpi="pmix",
            mounts=("/fsx", "/data:/mnt/data:ro"),
            env={"NCCL_DEBUG": "WARN"},
            host_env={"MELLANOX_VISIBLE_DEVICES": "all"},
            directives={"gpus-per-node": True, "exclusive": True, "mem": "0"},
            srun_args=("--network=test network",),
        ),
        request={
            "nodes": 4,
            "env": ("QUOTED=it's a $HOME `x`", "WANDB_MODE=offline"),
            "shared": True,
            "account": "a b",
        },
        inside=image(path=Path("/images/megatron lm.sqsh"), digest=None, store=None),
    ),
    "enroot": plan(
        profile=cluster(
            gpus_per_node=8,
            runtime="enroot",
            image="nemo",
            scratch="/raid/$USER",
            mounts=("/fsx", "/data/a b:/mnt/data:ro"),
            inherit=("HF_HOME",),
        ),
        request={"nodes": 2},
        where=host(environ={**SHELL, "HF_HOME": "/fsx/hf"}),
        inside=image(),
    ),
    "bwrap": plan(
        profile=cluster(gpus_per_node=8, runtime="bwrap", image="nemo", container_writable=False, mounts=("/fsx",)),
        request={"nodes": 2, "mounts": ("/data/a b:/mnt/data:ro",), "env": ("NCCL_DEBUG=INFO",)},
        inside=image(),
    ),
    "bwrap-local": plan(
        "local",
        profile=cluster(gpus_per_node=2, scheduler="local", runtime="bwrap", scratch="/scratch/it's mine"),
        request={"image": "nemo", "shared": True},
        inside=image(),
    ),
    "nsys": plan(request={"nodes": 2, "nsys": True}, changes=("profiling.profile_ranks=[0,4]",)),
    "nsys-all": plan(request={"nodes": 1, "nsys": True}, changes=("profiling.profile_ranks=[]",)),
    # One of each fabric, and NVLink over several nodes; 34 nodes are not a whole number of racks of 18.
    **{
        f"{name}-{nodes}": shipped(name, nodes)
        for name in ("aws-p5", "azure-nd-h100-v5", "aws-p6e-gb200", "oci-h100")
        for nodes in (2, 34)
    },
    "gcp-a4-2": shipped("gcp-a4", 2),
}


@pytest.mark.parametrize("name", PLANS)
def test_scripts_are_as_accepted(name: str) -> None:
    for file, text in scripts(PLANS[name]).items():
        path = GOLDEN / f"{name}.{file}"
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text)
        assert path.read_text() == text, f"{path.name} is rendered differently now; `make golden` accepts it"


def commands_of(text: str) -> str:
    """Return what a script does: without comments, and with the words of its messages left out."""
    lines = []
    for line in text.splitlines():
        line = re.sub(r"(^|\s)# .*|^#!.*", "", line).strip()
        line = re.sub(r'(\b(?:echo|fail) )"(?:[^"\\]|\\.)*"', r"\1MESSAGE", line)
        line = re.sub(r"^(remedy=).*", r"\1MESSAGE", line)
        if line:
            lines.append(line)
    return "\n".join(lines)


def test_commands_are_as_recorded() -> None:
    """Guard what is executed while comments and messages are rewritten; `make golden` records anew."""
    found = {
        f"{name}.{file}": hashlib.sha256(commands_of(text).encode()).hexdigest()
        for name in sorted(PLANS)
        for file, text in sorted(scripts(PLANS[name]).items())
    }
    if os.environ.get("UPDATE_GOLDEN"):
        COMMANDS.write_text(json.dumps(found, indent=1) + "\n")
    recorded = json.loads(COMMANDS.read_text())
    assert [name for name in found if found[name] != recorded.get(name)] == []


def decided(made: Plan) -> dict[str, Any]:
    """Return what a plan asks of Slurm for its nodes, and the variables that the launcher sets."""
    of_every_job = ("job-name", "output", "open-mode", "comment", "signal", "export")
    return {
        "directives": {key: value for key, value in made.directives if key not in of_every_job},
        "srun": [word for word in made.step.srun_args if word.startswith(("--mpi", "--cpu", "--network"))],
        "environment": {
            f"{each.scope} {each.operation} {each.name}": each.value
            for each in made.environment
            if each.scope in ("task", "host")
        },
    }


@pytest.mark.parametrize("name", SITES)
def test_environment_and_directives_of_each_profile_are_as_accepted(name: str) -> None:
    found = json.loads(json.dumps({str(nodes): decided(shipped(name, nodes)) for nodes in (2, 34)}))
    if os.environ.get("UPDATE_GOLDEN"):
        recorded = json.loads(PROFILES.read_text()) if PROFILES.exists() else {}
        kept = {site: each for site, each in recorded.items() if site in SITES}
        PROFILES.write_text(json.dumps({**kept, name: found}, indent=1, sort_keys=True) + "\n")
    assert json.loads(PROFILES.read_text())[name] == found, "`make golden` accepts it"


@pytest.mark.parametrize("name", PLANS)
def test_scripts_are_valid_bash(name: str) -> None:
    for text in scripts(PLANS[name]).values():
        assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("name", list(PLANS)[:: len(PLANS) // few(len(PLANS))])
def test_scripts_pass_shellcheck(name: str) -> None:
    for text in scripts(PLANS[name]).values():
        assert shellcheck(text) == ""


@functools.cache
def shellcheck(text: str) -> str:
    """Return what shellcheck finds; plans share scripts, and each is looked at once."""
    command = ["shellcheck", "-S", "warning", "-e", "SC2054", "-"]  # commas are parts of words here
    return subprocess.run(command, input=text, text=True, capture_output=True).stdout


def test_the_same_plan_gives_the_same_bytes_and_every_golden_file_is_used() -> None:
    for name, made in PLANS.items():
        assert scripts(made) == scripts(made), name
    used = {f"{name}.{file}" for name, made in PLANS.items() for file in scripts(made)}
    assert {path.name for path in GOLDEN.glob("*.sh")} == used
