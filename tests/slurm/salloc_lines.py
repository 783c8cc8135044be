"""Lines of salloc as people write them, with what Slurm gave for each: the answers lie in `salloc_lines.json`.

Most were found in public scripts and pages of documentation, and `source` names one where the same options are typed;
account, partition, time, constraint and reservation are left out, GPU types are written as `h100`, and numbers are
brought down to four nodes. `ours` are those that we added for a combination that was not found. Slurm's answers are
recorded anew with

    python -m tests.slurm.salloc_lines
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.slurm.config import ClusterOptions
from tests.support.slurm.virtual_cluster import VirtualCluster, virtual_cluster

RECORDED = Path(__file__).with_suffix(".json")

_NODE: dict[str, Any] = {"nodes": 4, "slots": 128, "memory_mb": 1_000_000}
SHAPES = {
    "plain": ClusterOptions(**_NODE),
    "typed": ClusterOptions(**_NODE, gpu_type="h100"),
    "none": ClusterOptions(**_NODE, gpus=0),
    "cons_res": ClusterOptions(**_NODE, select="select/cons_res"),
}


@dataclass(frozen=True)
class Runs:
    """The ranks of a run: on how many nodes, how many on each, and the CPUs of each."""

    nodes: int
    ranks: int
    cpus: int
    warns: str = ""
    """Part of the warning about what stays unused."""


@dataclass(frozen=True)
class Refused:
    """A refusal: part of its sentence, and the line that works."""

    says: str
    line: str


@dataclass(frozen=True)
class Line:
    """One line: its options, on a cluster of this shape, and the run or the refusal."""

    options: str
    becomes: Runs | Refused
    shape: str = "plain"
    ours: bool = False
    source: str = ""
    """Where a line with these options is typed: a file of a public repository, OWNER/NAME/PATH (a line of salloc, or of
    srun or sbatch that asks for the same); for the rest the options of the manual, salloc(1)."""

    @property
    def key(self) -> str:
        """Return its name in the file of answers."""
        return f"{self.shape}: salloc {self.options}"


LINES: tuple[Line, ...] = (
    # whole nodes
    Line(
        "-N 4 --gpus-per-node=8 --exclusive",
        Runs(4, 8, 16),
        source="awslabs/awsome-distributed-ai/3.test_cases/23.SMHP-esm2/4.train_docker_dpp.sh",
    ),
    Line("-N 2 --gres=gpu:4 --exclusive", Runs(2, 4, 32), source="NREL/HPC/h100buildrun/runall"),
    Line(
        "--exclusive --nodes=2 --gres=gpu:8 --ntasks-per-node=1 --cpus-per-task=128",
        Runs(2, 8, 16),
        source="stas00/ml-engineering/orchestration/slurm/example.slurm",
    ),
    Line("--exclusive -N2 -n4", Runs(2, 8, 16), source="salloc(1): --exclusive, --ntasks, --nodes"),
    Line(
        "--nodes=2 --exclusive",
        Runs(2, 8, 16),
        source="awslabs/awsome-distributed-ai/4.validation_and_observability/2.gpu-cluster-healthcheck/README.md",
    ),
    Line(
        "-G 1 --exclusive",
        Runs(1, 1, 128, "n1 has 8 GPUs, and the run uses 1"),
        source="salloc(1): --gpus, --exclusive",
    ),
    Line(
        "-N 2 --gpus-per-node=8 --exclusive --mem=0",
        Runs(2, 8, 16),
        ours=True,
        source="salloc(1): --gpus-per-node, --exclusive, --mem",
    ),
    # a task for each GPU
    Line(
        "-N 2 --gres=gpu:8 --ntasks-per-node=8",
        Runs(2, 8, 1),
        source="stas00/ml-engineering/orchestration/slurm/users.md",
    ),
    Line(
        "--nodes=1 --ntasks-per-node=8 --gpus-per-node=8",
        Runs(1, 8, 1),
        source="NVIDIA-NeMo/Megatron-Bridge/docs/performance-guide.md",
    ),
    Line(
        "--nodes=2 --ntasks-per-node=4 --gres=gpu:4",
        Runs(2, 4, 1),
        source="stas00/ml-engineering/orchestration/slurm/users.md",
    ),
    Line(
        "--nodes=2 --ntasks-per-node=8 --gres=gpu:8 --cpus-per-task=12 --mem=175G",
        Runs(2, 8, 12),
        source="PrincetonUniversity/multi_gpu_training/02_pytorch_ddp/README.md",
    ),
    Line(
        "--nodes=2 --ntasks-per-node=4 --gpus-per-task=1 --cpus-per-task=32",
        Runs(2, 4, 32),
        source="ECP-WarpX/WarpX/Tools/machines/pitzer-osc/pitzer_v100_warpx.profile.example",
    ),
    Line(
        "--mem=0 -N 1 --ntasks-per-node=4 --cpus-per-task=32 --gpus-per-task=1",
        Runs(1, 4, 32),
        source="mila-iqia/mila-docs/.github/setup_github_runner.sh",
    ),
    Line(
        "--nodes=3 --ntasks-per-node=4 --gpus-per-task=1",
        Runs(3, 4, 1),
        source="eth-cscs/cscs-docs/docs/running/slurm.md",
    ),
    Line(
        "-N 4 -n 4 --tasks-per-node 1 --gpus-per-task=1 --mem-per-gpu=30G",
        Runs(4, 1, 1),
        source="salloc(1): --mem-per-gpu, --gpus-per-task, --ntasks-per-node",
    ),
    Line("-n 4 -c 2 --gres=gpu:4", Runs(1, 4, 2), source="CSCfi/csc-user-guide/docs/apps/namd.md"),
    Line(
        "--gpus=4 --ntasks=4 --gpus-per-task=1 --gpu-bind=none",
        Runs(1, 4, 1),
        source="salloc(1): --gpu-bind, --gpus-per-task, --gpus",
    ),
    # tasks that are not ranks: of torchrun, of a shell
    Line(
        "-N2 --ntasks-per-node=1 -c 8 --gpus-per-node=4",
        Runs(2, 4, 2),
        ours=True,
        source="salloc(1): --gpus-per-node, --ntasks-per-node, --cpus-per-task",
    ),
    Line(
        "--nodes=1 --ntasks-per-node=16 --gres=gpu:8",
        Runs(1, 8, 2),
        source="stas00/ml-engineering/orchestration/slurm/users.md",
    ),
    Line("-G 1 -n4", Runs(1, 1, 4), source="NREL/HPC/slurm/gpucpu.sh"),
    # one GPU of a node
    Line("-n 1 --gpus=1", Runs(1, 1, 1), source="NREL/HPC/slurm/gpucpu.sh"),
    Line("--gpus=1", Runs(1, 1, 1), source="stas00/ml-engineering/orchestration/slurm/users.md"),
    Line("--gres=gpu", Runs(1, 1, 1), source="mila-iqia/mila-docs/all_docs_condensed.md"),
    Line("--gres=gpu:1 --mem=16G", Runs(1, 1, 1), source="salloc(1): --gres, --mem"),
    Line("--gres=gpu:1 -c 2 --mem=4G", Runs(1, 1, 2), source="mila-iqia/mila-docs/all_docs_condensed.md"),
    Line("--gres=gpu:1 --cpus-per-task=8 --mem=80G", Runs(1, 1, 8), source="mila-iqia/mila-docs/all_docs_condensed.md"),
    Line(
        "--gpus-per-node=1 --cpus-per-task=8 --mem=32G",
        Runs(1, 1, 8),
        source="nesi/support-docs/docs/Batch_Computing/Using_GPUs.md",
    ),
    Line(
        "--ntasks=1 --ntasks-per-node=1 --gpus-per-node=1 --cpus-per-task=32",
        Runs(1, 1, 32),
        source="salloc(1): --gpus-per-node, --ntasks-per-node, --cpus-per-task",
    ),
    Line(
        "-n 1 --ntasks-per-node 1 --gpus 1 --cpus-per-task 18",
        Runs(1, 1, 18),
        source="salloc(1): --gpus, --ntasks-per-node, --cpus-per-task",
    ),
    Line("-G1 -c 10", Runs(1, 1, 10), source="salloc(1): --gpus, --cpus-per-task"),
    Line("-N 2 --gres=gpu:1", Runs(2, 1, 1), source="NREL/HPC/h100buildrun/about.md"),
    # types
    Line("--gres=gpu:h100:1", Runs(1, 1, 1), "typed", source="mila-iqia/mila-docs/all_docs_condensed.md"),
    Line("--gres=gpu:h100:1 --mem-per-gpu=224G", Runs(1, 1, 1), "typed", source="salloc(1): --mem-per-gpu, --gres"),
    Line("--gpus=h100:1 --mem=64G", Runs(1, 1, 1), "typed", source="salloc(1): --gpus, --mem"),
    Line(
        "-N 1 -n 32 --cpus-per-task=1 --mem=128GB -G h100:1",
        Runs(1, 1, 32),
        "typed",
        source="salloc(1): --gpus, --mem, --cpus-per-task",
    ),
    Line(
        "--cpus-per-gpu=8 --mem-per-cpu=8G --gres=gpu:h100:1",
        Runs(1, 1, 8),
        "typed",
        source="salloc(1): --mem-per-cpu, --cpus-per-gpu, --gres",
    ),
    Line(
        "-N 2 --gpus-per-node=h100:4 --exclusive",
        Runs(2, 4, 32),
        "typed",
        ours=True,
        source="salloc(1): --gpus-per-node, --exclusive, --nodes",
    ),
    Line(
        "-N 2 --gpus-per-node=h100:4",
        Refused("1 CPU on n1 for 4 ranks", "salloc -N 2 --gpus-per-node=4 --exclusive"),
        "typed",
        source="NVIDIA-NeMo/Megatron-Bridge/skills/nemo-mbridge-multi-node-slurm/SKILL.md",
    ),
    # GPUs with fewer CPUs than ranks
    Line(
        "-N 2 --gpus-per-node=8",
        Refused("1 CPU on n1 for 8 ranks", "salloc -N 2 --gpus-per-node=8 --exclusive"),
        source="NVIDIA-NeMo/Megatron-Bridge/skills/nemo-mbridge-multi-node-slurm/SKILL.md",
    ),
    Line(
        "-N 2 --gpus-per-node=4",
        Refused("1 CPU on n1 for 4 ranks", "salloc -N 2 --gpus-per-node=4 --exclusive"),
        source="NVIDIA-NeMo/Megatron-Bridge/skills/nemo-mbridge-multi-node-slurm/SKILL.md",
    ),
    Line(
        "-N2 -G 16",
        Refused("1 CPU on n1 for 8 ranks", "salloc -N 2 --gpus-per-node=8 --exclusive"),
        source="GoogleCloudPlatform/cluster-toolkit/docs/gpu-support.md",
    ),
    Line(
        "--mem=0 --gres=gpu:8",
        Refused("1 CPU on n1 for 8 ranks", "salloc -N 1 --gpus-per-node=8 --exclusive"),
        source="salloc(1): --gres, --mem",
    ),
    Line(
        "--nodes 1 --gpus 4",
        Refused("1 CPU on n1 for 4 ranks", "salloc -N 1 --gpus-per-node=4 --exclusive"),
        source="GoogleCloudPlatform/cluster-toolkit/docs/gpu-support.md",
    ),
    Line("--cpus-per-gpu=2 --gpus=2", Runs(1, 2, 2), source="salloc(1): --cpus-per-gpu, --gpus"),
    # GPUs for the job as a whole
    Line(
        "--gpus=4 -N 2",
        Refused("has 3 GPUs on n1 and 1 GPU on n2", "salloc -N 2 --gpus-per-node=2 --exclusive"),
        source="GoogleCloudPlatform/cluster-toolkit/docs/gpu-support.md",
    ),
    Line(
        "-N 2 -n 6 --gpus-per-task=1",
        Refused("has 5 GPUs on n1 and 1 GPU on n2", "salloc -N 2 --gpus-per-node=3 --exclusive"),
        ours=True,
        source="salloc(1): --gpus-per-task, --ntasks, --nodes",
    ),
    Line(
        "-N 2 -G 12 -c 16",
        Refused("has 8 GPUs on n1 and 4 GPUs on n2", "salloc -N 2 --gpus-per-node=6 --exclusive"),
        ours=True,
        source="salloc(1): --gpus, --cpus-per-task, --nodes",
    ),
    # no GPUs
    Line(
        "-N 2",
        Refused("has no GPUs", "salloc -N 2 --gpus-per-node=8 --exclusive"),
        source="NREL/HPC/h100buildrun/about.md",
    ),
    Line(
        "--nodes=2 --ntasks-per-node=1 --cpus-per-task=4 --mem=16G",
        Refused("has no GPUs", "salloc -N 2 --gpus-per-node=8 --exclusive"),
        source="CSCfi/csc-user-guide/docs/apps/qe.md",
    ),
    Line(
        "-N 2 -n 8 --exclusive --mem=0",
        Refused("counts no GPUs on n1", "gpus_per_node"),
        "none",
        ours=True,
        source="salloc(1): --exclusive, --mem, --ntasks",
    ),
    Line(
        "--nodes=2 --exclusive",
        Refused("counts no GPUs on n1", "gpus_per_node"),
        "none",
        source="awslabs/awsome-distributed-ai/4.validation_and_observability/2.gpu-cluster-healthcheck/README.md",
    ),
    # heterogeneous
    Line(
        "-N1 --gpus-per-node=8 : -N1 --gpus-per-node=4",
        Refused("heterogeneous job of 2 components", "salloc -N 1 --gpus-per-node=8 --exclusive"),
        ours=True,
        source="https://slurm.schedmd.com/heterogeneous_jobs.html",
    ),
    # the older plug-in
    Line("-N 2 --gres=gpu:4 --exclusive", Runs(2, 4, 32), "cons_res", source="NREL/HPC/h100buildrun/runall"),
    Line(
        "--nodes=2 --ntasks-per-node=4 --gres=gpu:4",
        Runs(2, 4, 1),
        "cons_res",
        source="stas00/ml-engineering/orchestration/slurm/users.md",
    ),
    Line(
        "-N 2 --gres=gpu:8",
        Refused("1 CPU on n1 for 8 ranks", "salloc -N 2 --gpus-per-node=8 --exclusive"),
        "cons_res",
        source="NREL/HPC/h100buildrun/about.md",
    ),
)


def record(cluster: VirtualCluster, options: str) -> dict[str, Any]:
    """Return what Slurm answers inside such an allocation, or why it makes none."""
    script = (
        "scontrol --details show job $SLURM_JOB_ID; echo @@; scontrol show node $SLURM_JOB_NODELIST; echo @@; "
        "env | grep ^SLURM_; echo @@; "
        # Groups of equal nodes have lists of their own.
        "{ scontrol --details show job $SLURM_JOB_ID | grep -o 'Nodes=[^ ]* CPU_IDs' | cut -d' ' -f1 | cut -d= -f2; "
        "echo $SLURM_JOB_NODELIST; } | sort -u | while read -r list; do "
        "echo $list $(scontrol show hostnames $list); done"
    )
    argv = ["salloc", "--job-name=line", *options.split()]
    done = subprocess.run(
        [*argv, "bash", "-c", script], env=cluster.environment, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        return {"refused": done.stderr}
    job, nodes, environ, lists = done.stdout.split("@@\n")
    kept: tuple[str, ...] = ("JobId", "JobState", "NodeList", "NumNodes", "TRES", "Socks", "JOB_GRES", "Nodes", "Tres")
    kept = (*kept, "NodeName", "CPUAlloc", "Gres", "State")
    job, nodes = ("\n".join(one for one in text.splitlines() if one.strip().startswith(kept)) for text in (job, nodes))
    wanted = ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_JOB_NUM_NODES", "SLURM_JOB_CPUS_PER_NODE")
    variables = dict(line.partition("=")[::2] for line in environ.splitlines())
    return {
        "job": job,
        "nodes": nodes,
        "environ": {name: variables[name] for name in wanted if name in variables},
        "hostnames": {line.split()[0]: line.split()[1:] for line in lists.splitlines() if line.strip()},
    }


def main() -> int:
    """Record all lines."""
    found = {}
    for shape, options in SHAPES.items():
        with virtual_cluster(options) as cluster:
            for line in LINES:
                if line.shape == shape:
                    found[line.key] = record(cluster, line.options)
                    cluster.wait_idle()
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
