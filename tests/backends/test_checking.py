"""--check-config through the command: what the recipe says becomes part of the plan, or refuses it at once."""

import json
from pathlib import Path

import pytest

from tests.backends.running import ROOT, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster
from tests.support.warm import warm_python

VANILLA = str(ROOT / "recipes/vanilla_gpt_pretrain.py")

pytestmark = pytest.mark.megatron


def test_the_plan_knows_the_recipes_environment(tmp_path: Path) -> None:
    user = user_of(tmp_path)
    asked = ("plan", VANILLA, "--cluster", "local", "--json", "--check-config", "env_vars.MINE=7")
    done = user.run(*asked, "--python", warm_python())
    plan = json.loads(done.stdout)
    found = {each["name"]: each for each in plan["plan"]["environment"]}
    assert (found["MINE"]["value"], found["MINE"]["origin"]) == ("7", "the recipe's env_vars")
    assert "export MINE=7" in plan["scripts"]["step.sh"]
    assert plan["plan"]["unchecked"] == []
    assert "the configuration is valid" in done.stderr


def test_submit_checks_before_it_queues(tmp_path: Path, slurm_cluster: VirtualCluster) -> None:
    user = user_of(tmp_path, slurm_cluster)
    before = sorted(tmp_path.rglob("*"))
    done = user.run("submit", VANILLA, "train.global_batch_size=7", status=2)
    assert "7" in done.stderr
    assert "global" in done.stderr.lower()
    assert sorted(tmp_path.rglob("*")) == before
    assert slurm_cluster.run("squeue", "--noheader").stdout == ""


def test_an_unchanged_recipe_is_not_checked_again(tmp_path: Path) -> None:
    user = user_of(tmp_path)
    (tmp_path / "mine.py").write_text(Path(VANILLA).read_text() + "\nfrom sizes import ITERATIONS\n")
    (tmp_path / "sizes.py").write_text("ITERATIONS = 3\n")
    asked = ("plan", "mine.py", "--cluster", "local", "--python", warm_python())
    first, second = (user.run(*asked) for _ in range(2))
    assert "checking the configuration" in first.stderr
    assert "nothing has changed since the check of" in second.stderr
    (tmp_path / "sizes.py").write_text("ITERATIONS = 4\n")
    assert "checking the configuration" in user.run(*asked).stderr
    assert "checking the configuration" in user.run(*asked, "train.train_iters=4").stderr
