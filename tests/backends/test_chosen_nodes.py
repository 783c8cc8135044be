"""--nodelist and --exclude of `launcher run` choose among the nodes of its allocation; other options are refused."""

from pathlib import Path

import pytest

from tests.backends.running import TOY, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster

RUN = ("run", "small.py", "--entrypoint", TOY, "--gpus-per-node", "1")
NODES = ("-N3", "-w", "n1,n2,n3", "--ntasks-per-node=1")


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    return user_of(tmp_path, slurm_cluster)


@pytest.mark.parametrize(
    ("words", "nodes"),
    [
        (("--exclude", "n1"), ["n2", "n3"]),
        (("--exclude", "n[1-2]"), ["n3"]),
        (("--nodelist", "n2"), ["n2"]),
        (("--nodelist", "n3", "--nodes", "2", "--exclude", "n1"), ["n2", "n3"]),
    ],
)
def test_the_ranks_run_on_the_chosen_nodes(user: User, words: tuple[str, ...], nodes: list[str]) -> None:
    user.salloc(*RUN, *words, options=NODES)
    (run,) = user.runs()
    assert (run / "attempts/000/nodes").read_text().split() == nodes
    assert [note["environment"]["SLURMD_NODENAME"] for note in user.seen(run)] == nodes


def test_what_the_allocation_does_not_have_or_has_already_is_refused(user: User) -> None:
    for words, said in (
        (("--nodelist", "n4"), "n4 is not in this allocation, which has n1, n2, n3"),
        (("--exclude", "n[1-3]"), "0 of the allocation's 3 are not excluded"),
        (("--partition", "batch"), "--partition: it has no effect in an allocation"),
        (("--time", "1"), "--time: it has no effect in an allocation"),
        (("--sbatch", "mem=0"), "--sbatch: it has no effect in an allocation"),
    ):
        done = user.salloc(*RUN, *words, options=NODES, status=2)
        assert said in done.stderr
    assert user.runs() == []
