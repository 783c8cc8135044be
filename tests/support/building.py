"""Plans for tests, made from values alone: no machine, no clock, no Slurm."""

from pathlib import Path
from typing import Any

from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.contract.disk_space import DiskSpace
from launcher.contract.values import Override
from launcher.discovery.host import HostContext
from launcher.discovery.image import Image
from launcher.discovery.recipe import Recipe, RecipeFile
from launcher.planning import make
from launcher.planning.backend import BACKENDS, BackendName
from launcher.planning.inputs import ConfigKnowledge, FromOverrides
from launcher.planning.model import Plan
from launcher.planning.overrides import check
from launcher.slurm.allocation import AllocatedNode, Allocation
from launcher.slurm.nodes import NodeKind

RECIPE = RecipeFile(Path("/home/ada/gpt/recipes/small.py"), "configure", ("layers",), ())
SPACE = DiskSpace("/home/ada/gpt", 10**18, 10**18, None, None)
SHELL = {"HOME": "/home/ada", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin", "USER": "ada", "EDITOR": "vi"}


def host(**changes: Any) -> HostContext:
    """A login node at a fixed time."""
    values: dict[str, Any] = {
        "directory": Path("/home/ada/gpt"),
        "environ": SHELL,
        "python": "/opt/python/bin/python3",
        "user": "ada",
        "hostname": "login",
        "now": 1_790_000_000.0,
        "run_id": "20260921-120000-abcd",
        "nonce": "0123456789ab",
        "has_slurm": True,
        "gpus": 0,
        "job": None,
    }
    return HostContext(**{**values, **changes})


def allocation(nodes: int = 2, gpus: int = 4, cpus: int = 32, of: tuple[int, int] | None = None) -> Allocation:
    """An allocation of salloc's; `of` are the GPUs and CPUs that a node has, by default those that are allocated."""
    node_gpus, node_cpus = of or (gpus, cpus)
    names = (f"n{number}" for number in range(1, nodes + 1))
    found = (AllocatedNode(name, cpus, gpus, None, node_cpus, node_gpus) for name in names)
    return Allocation("77", tuple(found))


def overrides(*texts: str) -> tuple[Override, ...]:
    """Overrides, with their grammar checked but not their keys."""
    return check(texts, None)


def cluster(**values: Any) -> Cluster:
    """A profile."""
    return Cluster.model_validate({"name": "test", **values})


def image(**changes: Any) -> Image:
    """An image of a store."""
    digest = "0123456789ab" + "cd" * 26
    values: dict[str, Any] = {
        "name": "nemo",
        "path": Path(f"/images/sha256/{digest}.sqsh"),
        "digest": f"sha256:{digest}",
        "architecture": "x86_64",
        "size_bytes": 20_000_000_000,
        "environment": {"PATH": "/opt/venv/bin:/usr/bin:/bin", "NCCL_DEBUG": "VERSION", "NGC_API_KEY": None},
        "needed": ("/opt/venv/bin", "/opt/venv/lib"),
        "store": Path("/images"),
        "packages": {"torch": "2.11.0"},
        "key": digest[:12],
    }
    return Image(**{**values, **changes})


def plan(
    backend: BackendName = "batch",
    *,
    profile: Cluster | None = None,
    request: dict[str, Any] | None = None,
    changes: tuple[str, ...] = (),
    arguments: dict[str, str] | None = None,
    recipe: Recipe = RECIPE,
    where: HostContext | None = None,
    inside: Image | None = None,
    known: ConfigKnowledge | None = None,
    space: DiskSpace | None = SPACE,
    save_s: float | None = None,
    allocated: Allocation | None = None,
    kinds: tuple[NodeKind, ...] = (),
    kernel: bool | None = None,
) -> Plan:
    """A plan for `backend`; `changes` are overrides, `inside` the image, `known` what is known of the configuration.

    `space` describes the file system of its checkpoints, `allocated` what salloc gave (by default two nodes), `kinds`
    the nodes of a batch job's partition, `kernel` whether the interpreter has that of gradient accumulation fusion.
    """
    return make.make_plan(
        make.PlanInputs(
            request=Request.model_validate({"recipe": "recipes/small.py", **(request or {})}),
            cluster=profile or cluster(scheduler="local" if backend == "local" else "slurm", gpus_per_node=4),
            host=where or host(),
            backend=BACKENDS[backend],
            recipe=recipe,
            arguments=arguments or {},
            overrides=overrides(*changes),
            code=(("entrypoint.py", "/opt/launcher/entrypoint.py"),),
            image=inside,
            space=space,
            knowledge=known or FromOverrides(),
            save_s=save_s,
            allocation=(allocated or allocation()) if backend == "allocation" else None,
            node_kinds=kinds,
            accumulation_kernel=kernel,
        )
    )
