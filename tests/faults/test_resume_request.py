"""What a resume asks for again, and what it does not. Cost: about 15 s on the shared cluster."""

import json
from pathlib import Path

import pytest

from tests.backends.running import TOY, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until


@pytest.fixture
def user(slurm_cluster: VirtualCluster, tmp_path: Path) -> User:
    return user_of(tmp_path, slurm_cluster)


def test_a_finished_run_is_continued_only_for_more(tmp_path: Path) -> None:
    alone = user_of(tmp_path)
    common = ("small.py", "--gpus-per-node=1", f"--entrypoint={TOY}", "--no-check-config", "toy.save_every=1")
    alone.run("run", *common, "toy.iters=3", "--name", "done")
    for more in ((), ("train.train_iters=3",)):
        assert "has finished its 3 iterations" in alone.run("run", "--resume", "done", *more, status=2).stderr
    alone.run("run", "--resume", "done", "toy.iters=5")
    assert "iteration 5/5" in alone.run("logs", "done").stdout


@pytest.mark.fault("what a resume forgot")
def test_a_run_of_an_allocation_keeps_its_nodes_and_a_hold_is_of_one_job(
    user: User, slurm_cluster: VirtualCluster
) -> None:
    common = ("small.py", "--gpus-per-node=2", f"--entrypoint={TOY}", "--no-check-config", "toy.save_every=1")
    user.salloc("run", *common, "toy.iters=2", options=("-N2", "--ntasks-per-node=2", "--gpus-per-node=2"))
    (run,) = user.runs()
    user.run("submit", "--resume", str(run), "toy.iters=4", "--sbatch", "hold")
    held = json.loads((run / "plan.json").read_text())
    assert held["layout"]["nodes"] == 2
    assert ["hold", None] in held["directives"]
    user.run("cancel", str(run))

    def over() -> bool:
        return bool(json.loads(user.run("status", str(run), "--json").stdout)["runs"][0]["over"])

    wait_until(over, "the held job to end", slurm_cluster, 30)
    user.run("submit", "--resume", str(run), "toy.iters=6")
    plan = json.loads((run / "plan.json").read_text())
    assert plan["layout"]["world_size"] == 4
    assert ["hold", None] not in plan["directives"]
    assert (plan["request"].get("sbatch") or {}) == {}


def test_what_makes_another_training_needs_permission(tmp_path: Path) -> None:
    """A line of the run's own copy of the recipe was changed: any line may change what is trained."""
    alone = user_of(tmp_path)
    common = ("small.py", "--gpus-per-node=1", f"--entrypoint={TOY}", "--no-check-config", "toy.save_every=1")
    alone.run("run", *common, "toy.iters=3", "--name", "changed")
    (run,) = alone.runs()
    again = ("run", "--resume", "changed", "toy.iters=5")
    (run / "code/recipe/small.py").chmod(0o644)  # it is read-only, for every user but root
    with (run / "code/recipe/small.py").open("a") as file:
        file.write("# another recipe\n")
    refused = alone.run(*again, status=2).stderr
    assert "another training: code: " in refused
    assert "--allow-change code" in refused
    planned = alone.run("plan", "--resume", "changed", "toy.iters=5", "--allow-change=code", "--json").stdout
    keys = {change["key"]: (change["before"], change["after"]) for change in json.loads(planned)["plan"]["changes"]}
    assert keys["toy.iters"] == ("3", "5")
    assert set(keys) == {"toy.iters", "code"}
    assert "changed: toy.iters: 3 -> 5" in alone.run(*again, "--allow-change=code").stderr
    assert "is new" in alone.run("run", *common, "--allow-change=code", status=2).stderr
