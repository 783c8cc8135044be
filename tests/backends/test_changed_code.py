"""Code of a queued run that was edited in place through another run that shares the file. Cost: two jobs, 5 s."""

import json
from pathlib import Path

import pytest

from tests.backends.running import User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    return user_of(tmp_path, slurm_cluster)


def test_a_queued_job_does_not_train_with_code_that_was_changed_meanwhile(
    user: User, slurm_cluster: VirtualCluster
) -> None:
    asked = ("small.py", "--nodes", "2", "--no-check-config", "--keep-going", "--sbatch", "hold", "--json")
    one, other = (json.loads(user.run("submit", *asked).stdout) for _ in range(2))
    recipe = Path(one["run_dir"]) / "code/recipe/small.py"
    recipe.chmod(0o600)
    recipe.write_text("raise SystemExit('the changed recipe was imported')\n")
    slurm_cluster.run("scontrol", "release", other["job"])
    assert slurm_cluster.wait(other["job"], "COMPLETED", "FAILED", timeout_s=60) == "FAILED"
    run = Path(other["run_dir"])
    result = json.loads((run / "attempts/000/result.json").read_text())
    assert "recipe/small.py below code/ changed after the run was made" in result["reason"]
    assert not (run / "attempts/001").exists(), "a wrong request is not tried again"
    assert "recipe/small.py below code/ changed" in user.run("status", str(run)).stdout
    assert "was imported" not in "".join(path.read_text() for path in run.glob("attempts/000/logs/*"))
