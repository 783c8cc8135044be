"""What a job of each profile gets of its nodes: all CPUs, on both sockets, all GPUs and all memory."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from launcher._util.resources import resource
from launcher.config.cluster import Cluster
from launcher.config.load import load_cluster
from tests.support.building import image, plan
from tests.support.node_shapes import SHAPES
from tests.support.slurm.config import ClusterOptions, NodeShape
from tests.support.slurm.virtual_cluster import VirtualCluster, missing_programs, virtual_cluster

BASES = ("aws-efa", "gcp-gib", "local", "slurm")
NAMES = sorted({path.stem for path in resource("configs/clusters").glob("*.toml")} - {*BASES})


def profile(name: str) -> Cluster:
    return load_cluster(name, {"HOME": "/nowhere"})


def cpus_of_a_step(shape: NodeShape, cpus_per_task: int | None, ranks: int) -> int:
    """CPUs that Slurm gives to a step of an exclusive job: since 22.05 --cpus-per-task is exact, by cores."""
    if cpus_per_task is None:
        return shape.cpus
    return math.ceil(cpus_per_task / shape.threads) * shape.threads * ranks


def sockets_of_a_step(shape: NodeShape, cpus: int) -> int:
    """Sockets that these CPUs lie on, dealt out in blocks."""
    return math.ceil(cpus / (shape.cores * shape.threads))


@pytest.mark.parametrize("name", NAMES)
def test_ranks_have_every_cpu_of_both_sockets(name: str) -> None:
    found, shape = profile(name), SHAPES[name]
    assert found.gpus_per_node == shape.gpus
    stated = found.directives.get("cpus-per-task", found.cpus_per_task)
    cpus = cpus_of_a_step(shape, None if stated is None else int(str(stated)), shape.gpus)
    assert cpus == shape.cpus, "CPUs are left over, or there are not as many"
    assert sockets_of_a_step(shape, cpus) == shape.sockets
    assert "distribution" not in found.directives
    assert (found.directives["exclusive"], found.directives["mem"]) == (True, "0")


def test_what_coreweaves_own_script_asks_for_is_half_of_a_node() -> None:
    shape = SHAPES["coreweave-h100"]
    cpus = cpus_of_a_step(shape, 8, 8)
    assert (cpus, sockets_of_a_step(shape, cpus)) == (64, 1)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if any("mask_cpu" in each for each in profile(name).srun_args)]
)
def test_masks_cover_the_node_and_keep_each_rank_on_one_socket(name: str) -> None:
    found, shape = profile(name), SHAPES[name]
    (argument,) = found.srun_args
    masks = [int(mask, 16) for mask in argument.partition("mask_cpu:")[2].split(",")]
    assert len(masks) == shape.gpus
    union = 0
    for mask in masks:
        union |= mask
        on = {number // (shape.cores * shape.threads) for number in range(shape.cpus) if mask >> number & 1}
        assert len(on) == 1
        assert mask.bit_count() >= shape.cpus // shape.gpus
    assert union == (1 << shape.cpus) - 1


JOB = """
scontrol show job -d "$SLURM_JOB_ID"
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK-}
[[ -n $SRUN_CPUS_PER_TASK ]] || unset SRUN_CPUS_PER_TASK
srun bash -c 'echo "step $SLURM_CPUS_ON_NODE"'
"""


@contextmanager
def cluster_of(shapes: tuple[NodeShape, ...]) -> Iterator[VirtualCluster]:
    if (reason := missing_programs()) is not None:
        pytest.skip(reason)
    # Jobs without --mem get a part of a node's memory, as on sites with a default for each CPU.
    extra = ("SelectTypeParameters=CR_Core_Memory", "DefMemPerCPU=1024")
    with virtual_cluster(ClusterOptions(nodes=len(shapes), shapes=shapes, extra=extra)) as cluster:
        yield cluster


def directives_of(name: str) -> dict[str, str]:
    found = profile(name)
    made = plan(profile=found, request={"nodes": 1}, inside=image(architecture=found.architecture or "x86_64"))
    wanted = ("nodes", "exclusive", "mem", "gpus-per-node", "ntasks-per-node", "cpus-per-task", "distribution")
    return {key: str(value) for key, value in dict(made.directives).items() if key in wanted}


@pytest.mark.slurm
def test_slurm_gives_the_jobs_of_all_profiles_whole_nodes() -> None:
    kinds = tuple(dict.fromkeys(SHAPES.values()))
    wanted = {name: (SHAPES[name], directives_of(name)) for name in NAMES}
    part = {**directives_of("coreweave-h100"), "cpus-per-task": "8", "distribution": "block:block", "mem": "131072"}
    wanted["of CoreWeave's script"] = (SHAPES["coreweave-h100"], part)
    seen = {}
    with cluster_of(kinds) as cluster:
        jobs = {}
        for name, (shape, directives) in wanted.items():
            where = (f"--nodelist=n{kinds.index(shape) + 1}", "--time=5")
            options = [f"--{key}" if value == "None" else f"--{key}={value}" for key, value in directives.items()]
            jobs[name] = cluster.submit(JOB, *options, *where)
        for name, job in jobs.items():
            assert cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED", cluster.output(job)
            text, shape = cluster.output(job), wanted[name][0]
            step, memory = re.search(r"^step (\d+)", text, re.MULTILINE), re.search(r" Mem=(\d+)", text)
            gpus = re.search(r" GRES=gpu(?::\w+)?:(\d+)", text)
            assert step and memory and gpus, text
            seen[name] = (int(step[1]), int(gpus[1]), int(memory[1]) == shape.memory_mb)
    assert seen.pop("of CoreWeave's script") == (64, 8, False)
    assert seen == {name: (SHAPES[name].cpus, SHAPES[name].gpus, True) for name in NAMES}
