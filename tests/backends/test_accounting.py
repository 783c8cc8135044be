"""A site with accounting: slurmdbd knows accounts, and the end of jobs that the controller has forgotten.

Cost: one cluster with a database, about 20 s.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.backends.running import TOY, User, user_of
from tests.support.slurm.config import ClusterOptions
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until

SHAPE = ClusterOptions(nodes=2, accounting=True)
ASKED = ("submit", "small.py", "--entrypoint", TOY, "--nodes", "1", "--json")


@pytest.fixture
def user(tmp_path: Path, shaped_cluster: VirtualCluster) -> User:
    return user_of(tmp_path, shaped_cluster)


def status(user: User, run: str) -> dict[str, Any]:
    (found,) = json.loads(user.run("status", run, "--json").stdout)["runs"]
    return dict(found)


def test_an_account_that_the_user_does_not_have_is_a_wrong_request(user: User) -> None:
    done = user.run(*ASKED, "--account", "nope", status=2)
    assert "Invalid account" in done.stderr
    assert "sacctmgr" in done.stderr
    done = user.run("doctor", "--account", "nope", status=1)
    assert "has no association with account 'nope'" in done.stdout
    assert "yours: gpt" in done.stdout
    assert "gpt" in user.run("doctor", "--account", "gpt").stdout


def test_what_the_controller_has_forgotten_is_known(user: User, shaped_cluster: VirtualCluster) -> None:
    """A job that ran to its end, and one that was cancelled without the launcher while its ranks ran."""
    ended = json.loads(user.run(*ASKED, "--account", "gpt").stdout)
    long = ("toy.iters=5000", "toy.seconds=0.05")
    cancelled = json.loads(user.run(*ASKED, *long).stdout)
    assert shaped_cluster.wait(ended["job"], "COMPLETED", "FAILED") == "COMPLETED"
    wait_until(lambda: status(user, cancelled["run_dir"])["phase"] == "running", "a running job", shaped_cluster, 30)
    shaped_cluster.run("scancel", cancelled["job"])
    shaped_cluster.wait(cancelled["job"], "CANCELLED")
    recorded = ("sacct", "-X", "-n", "-P", "-o", "State", "-j", cancelled["job"])
    wait_until(lambda: "CANCELLED" in shaped_cluster.run(*recorded).stdout, "its record", shaped_cluster, 30)
    shaped_cluster.stop_controller()
    for state in (shaped_cluster.directory / "state").glob("job_state*"):
        state.unlink()
    shaped_cluster.start_controller()
    shaped_cluster.wait_idle(30)
    assert shaped_cluster.run("squeue", "--noheader", "--states=all").stdout == ""
    assert status(user, ended["run_dir"])["phase"] == "finished"
    found = status(user, cancelled["run_dir"])
    assert found["phase"] == "cancelled", found
