"""`launcher run` in allocations as people make them, on nodes with typed GPUs: the right ranks, GPUs and CPUs.

The decision about forty lines is in tests/planning/test_allocation.py; here Slurm carries some of them out. Cost: one
cluster of four nodes, about 40 s.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.backends.running import LAUNCHER, TOY, User, user_of
from tests.support.slurm.config import ClusterOptions
from tests.support.slurm.virtual_cluster import VirtualCluster

SHAPE = ClusterOptions(gpus=4, gpu_type="h100")
RUN = ("run", "small.py", "--entrypoint", TOY)


@pytest.fixture
def user(tmp_path: Path, shaped_cluster: VirtualCluster) -> User:
    found = user_of(tmp_path, shaped_cluster)
    (tmp_path / "clusters/virtual.toml").write_text('extends = "slurm"\n')
    return found


def ran(user: User, nodes: int, ranks: int, cpus: int | None, gpus: bool = True) -> None:
    """Check where the ranks of the newest run were, and what each had."""
    seen = [note["environment"] for note in user.seen(user.runs()[-1])]
    places = [(rank["SLURM_NODEID"], rank["LOCAL_RANK"]) for rank in seen]
    assert places == [(str(node), str(rank)) for node in range(nodes) for rank in range(ranks)]
    assert {rank.get("SLURM_CPUS_PER_TASK") for rank in seen} == {None if cpus is None else str(cpus)}
    visible = ",".join(map(str, range(ranks))) if gpus else None
    assert {rank.get("CUDA_VISIBLE_DEVICES") for rank in seen} == {visible}


@pytest.mark.parametrize(
    ("options", "nodes", "ranks", "cpus"),
    [
        ("-N2 --ntasks-per-node=1 --gpus-per-node=4 -c 8", 2, 4, 2),
        ("-N2 --gpus-per-node=h100:4 --exclusive", 2, 4, 2),
        ("--exclusive --nodes=2 --mem=0", 2, 4, 2),
        ("-N2 -n8 --gpus-per-task=1", 2, 4, 1),
        ("--nodes=2 --ntasks-per-node=2 --gpus-per-task=1 --cpus-per-task=4", 2, 2, 4),
        ("-N2 -n2 --gpus-per-node=2 -c 4 --mem-per-gpu=100M", 2, 2, 2),
        ("--nodes=1 --ntasks-per-node=8 --gres=gpu:h100:4", 1, 4, 2),
        ("--gpus=4 --ntasks=4 --gpus-per-task=1 --gpu-bind=none", 1, 4, 1),
        ("-G 1 -n4", 1, 1, 4),
        ("--gres=gpu:h100:2 -c 6 --mem-per-cpu=100M", 1, 2, 3),
        ("--cpus-per-gpu=2 --gpus=2", 1, 2, 2),
        ("-N3 --ntasks-per-node=4 --gpus-per-node=4 --ntasks-per-core=1", 3, 4, 1),
    ],
)
def test_the_ranks_have_what_was_given(user: User, options: str, nodes: int, ranks: int, cpus: int) -> None:
    user.salloc(*RUN, options=tuple(options.split()))
    ran(user, nodes, ranks, cpus)


def test_a_part_of_an_allocation_whose_gpus_are_of_the_whole_job(user: User) -> None:
    user.salloc(*RUN, "--nodes", "1", options=("-N2", "-G8", "-n2", "-c8"))
    ran(user, 1, 4, 2)
    user.salloc(*RUN, "--gpus-per-node", "2", options=("-N2", "--gpus-per-node=4", "-n2", "-c8"))
    ran(user, 2, 2, 4)


@pytest.mark.parametrize(
    ("options", "says", "line"),
    [
        ("-N2 --gpus-per-node=4", "has 1 CPU on n1 for 4 ranks", "salloc -N 2 --gpus-per-node=4 --exclusive"),
        ("-N2", "has no GPUs", "salloc -N 2 --gpus-per-node=4 --exclusive"),
        ("-N2 -n2 -G5 -c8", "has 4 GPUs on n1 and 1 GPU on n2", "salloc -N 2 --gpus-per-node=4 --exclusive"),
        (
            "-N1 -w n1 --gpus-per-node=4 : -N1 -w n2 --gpus-per-node=2",
            "is a heterogeneous job of 2 components",
            "salloc -N 1 --gpus-per-node=4 --exclusive",
        ),
    ],
)
def test_other_allocations_are_refused_with_the_line_that_works(user: User, options: str, says: str, line: str) -> None:
    done = user.salloc(*RUN, options=tuple(options.split()), status=2)
    assert says in done.stderr
    assert line in done.stderr
    assert user.runs() == []
    user.salloc(*RUN, options=tuple(line.split()[1:]))
    assert len(user.runs()) == 1


def in_step(user: User, options: Sequence[str], *words: str, status: int = 0) -> str:
    """`launcher WORDS` as the program of a step, as in `srun --pty bash`."""
    return user.call(["srun", *options, str(LAUNCHER), *words], status=status, timeout_s=60).stderr


def test_a_run_in_the_shell_of_a_step_shares_its_cpus_and_gpus(user: User) -> None:
    in_step(user, ("-N1", "-n1", "--gpus-per-node=4", "-c", "8"), *RUN)
    ran(user, 1, 4, 2)


def test_a_command_in_each_task_of_a_step_is_refused(user: User) -> None:
    said = in_step(user, ("-N1", "-n2", "--gpus-per-node=4"), *RUN, status=2)
    assert "this command runs 2 times, once in each task of a step" in said
    assert user.runs() == []


def test_a_batch_job_asks_for_its_share_of_the_node(user: User, shaped_cluster: VirtualCluster) -> None:
    """The nodes have eight CPUs and four GPUs, and the profile says nothing of either."""
    asked = ("submit", "small.py", "--entrypoint", TOY, "--json", "--nodes", "2")
    for words, cpus in (
        ((), "2"),
        (("--sbatch", "exclusive"), "2"),
        (("--sbatch", "cpus-per-task=1"), "1"),
        (("--unset-sbatch", "cpus-per-task"), "1"),
        (("--sbatch", "cpus-per-gpu=2", "--gpus-per-node", "2"), "2"),
    ):
        answer = json.loads(user.run(*asked, *words).stdout)
        assert shaped_cluster.wait(answer["job"], "COMPLETED", "FAILED") == "COMPLETED", words
        seen = [note["environment"] for note in user.seen(Path(answer["run_dir"]))]
        assert {rank["SLURM_CPUS_PER_TASK"] for rank in seen} == {cpus}, words
        assert len(seen) == (4 if "--gpus-per-node" in words else 8)
    said = user.run("plan", "small.py", "--entrypoint", TOY, "--nodes", "2", "--gpus-per-node", "1").stderr
    assert "each node has 4 GPUs, and the run uses 1 of them" in said


def test_an_allocation_that_has_ended_is_said_to_have(user: User, shaped_cluster: VirtualCluster) -> None:
    job = shaped_cluster.submit("true", "--nodes=1")
    shaped_cluster.wait(job, "COMPLETED")
    stale = {"SLURM_JOB_ID": job, "SLURM_JOB_NUM_NODES": "1"}
    done = user.run(*RUN, environ=stale, status=2)
    assert f"the allocation {job} of this shell has ended: it is COMPLETED" in done.stderr
