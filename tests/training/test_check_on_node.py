"""--check-on node: a user's own file is checked in a short job on a compute node. Cost: three checks, about 30 s."""

import json
from pathlib import Path

import pytest

from tests.backends.running import ROOT, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster
from tests.support.warm import warm_python

pytestmark = [pytest.mark.megatron, pytest.mark.slurm, pytest.mark.timeout(600)]

MINE = "from sizes import LAYERS\nfrom vanilla_gpt_pretrain import configure as vanilla\n\n\n"
MINE += "def configure(hidden: int = 64):\n    cfg = vanilla()\n    cfg.model.num_layers = LAYERS\n    return cfg\n"


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "sizes.py").write_text("LAYERS = 4\n")
    (tmp_path / "vanilla_gpt_pretrain.py").write_text((ROOT / "recipes/vanilla_gpt_pretrain.py").read_text())
    return user_of(tmp_path, slurm_cluster)


def test_a_recipe_is_checked_on_a_node(user: User) -> None:
    """In a job of fifteen minutes, whatever the time of the run, and not held or put off as the run is."""
    profile = user.directory / "clusters/virtual.toml"
    profile.write_text(profile.read_text() + '[directives]\ntime = "3-0"\n')
    of_the_run = ("--sbatch", "time=2-0", "--sbatch", "time-min=60", "--sbatch", "hold")
    asked = ("mine.py", "hidden=32", "--nodes", "2", "--check-on", "node", "--python", warm_python(), *of_the_run)
    done = user.run("plan", *asked, "model.tensor_model_parallel_size=2", "--json", timeout_s=400)
    plan = json.loads(done.stdout)["plan"]
    assert "the configuration is valid: tensor_model_parallel_size=2" in done.stderr
    assert plan["unchecked"] == []
    assert dict(plan["layout"]["parallel"])["tp"] == 2
    (check,) = user.runs()
    assert check.parent.name == "mine-check"
    made = json.loads((check / "plan.json").read_text())
    directives = dict(made["directives"])
    assert (made["world_size"], directives["time"]) == (1, "15")
    assert not {"time-min", "hold"}.intersection(directives)
    assert dict(plan["directives"])["time"] == "2-0"
    assert json.loads((check / "attempts/000/result.json").read_text())["outcome"] == "finished"

    # What is wrong is said of the user's own file, and nothing is queued for it.
    (user.directory / "sizes.py").write_text("LAYERS = 1 / 0\n")
    refused = user.run("submit", *asked, status=2, timeout_s=400)
    assert "ZeroDivisionError" in refused.stderr
    assert str(user.directory / "sizes.py") in refused.stderr
    assert {run.parent.name for run in user.runs()} == {"mine-check"}


def test_in_an_allocation_it_is_checked_on_one_of_its_nodes(user: User) -> None:
    asked = ("mine.py", "--check-on", "node", "--python", warm_python(), "--json")
    done = user.salloc("plan", "--for", "run", *asked, options=("-N2", "--ntasks-per-node=2"), timeout_s=400)
    plan = json.loads(done.stdout)["plan"]
    assert (plan["backend"], plan["world_size"], plan["unchecked"]) == ("allocation", 4, [])
    (check,) = user.runs()
    made = json.loads((check / "plan.json").read_text())
    assert (made["backend"], made["world_size"]) == ("allocation", 1)


def test_where_it_cannot_be_it_is_refused(user: User) -> None:
    alone = user.run("plan", "mine.py", "--check-on", "node", "--cluster", "local", status=2)
    assert "--check-on node submits a job" in alone.stderr
    contradicted = user.run("plan", "mine.py", "--check-on", "node", "--no-check-config", status=2)
    assert "--no-check-config leaves the check out" in contradicted.stderr
