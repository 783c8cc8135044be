"""A job is known by its cluster, its number and its being the run's: another run's job is never ended.

Cost: two clusters of one node, about 15 s.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backends.running import TOY, User, user_of
from tests.faults.shims import put, two_clusters
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until

COMMON = ("small.py", "--nodes=1", "--gpus-per-node=2", f"--entrypoint={TOY}", "--no-check-config")
LONG = ("toy.iters=5000", "toy.seconds=0.05")


def submit(user: User, *settings: str) -> Path:
    user.run("submit", *COMMON, *LONG, *settings)
    return user.runs()[-1]


def status(user: User, run: Path, environ: dict[str, str] | None = None) -> dict[str, object]:
    (found,) = json.loads(user.run("status", str(run), "--json", environ=environ).stdout)["runs"]
    return dict(found)


def phase_is(user: User, run: Path, cluster: VirtualCluster, *phases: str) -> None:
    wait_until(lambda: status(user, run)["phase"] in phases, f"{run} to be {phases}", cluster, 30)


@pytest.mark.fault("another run's job")
def test_equal_numbers_on_two_clusters(new_cluster: Callable[..., VirtualCluster], tmp_path: Path) -> None:
    """The run's job is on the other cluster; an unrelated job at home has the same number, and stays."""
    home, other = new_cluster(nodes=1), new_cluster(nodes=1)
    precious = home.submit("sleep 600", "--job-name=precious")
    user = user_of(tmp_path, home)
    log = two_clusters(user, home, other)
    run = submit(user, "--sbatch", "clusters=other", "--name", "elsewhere")
    assert status(user, run)["job"] == precious, "both clusters have given out the same number"
    phase_is(user, run, other, "running")
    user.run("cancel", "elsewhere")
    other.wait(precious, "CANCELLED", "COMPLETED", "FAILED")
    assert home.state(precious) in ("RUNNING", "PENDING")
    assert [line for line in log.read_text().splitlines() if line.startswith("scancel")] == [
        f"scancel --clusters=other {precious} -> {other.conf}"
    ]
    assert status(user, run)["job_cluster"] == "other"

    # One run root that both clusters see, and a login node of the other one: its Slurm knows another job.
    mine = submit(user, "--name", "mine")
    number = str(status(user, mine)["job"])
    while other.submit("sleep 600", "--job-name=stranger") != number:
        pass
    # Both virtual clusters have one name, as where an administrator has copied slurm.conf.
    there = {"SLURM_CONF": str(other.conf), "PATH": user.environ["PATH"].partition(":")[2]}
    seen = status(user, mine, environ=there)
    assert (seen["job"], seen["job_proven"]) == (None, False)
    assert "is not this run's" in str(seen["detail"])
    refused = user.run("cancel", "mine", "--force", status=3, environ=there)
    assert "nothing was ended" in refused.stderr
    assert other.state(number) in ("RUNNING", "PENDING")
    assert home.state(number) in ("RUNNING", "PENDING")


def test_a_controller_that_has_lost_its_state(new_cluster: Callable[..., VirtualCluster], tmp_path: Path) -> None:
    cluster = new_cluster(nodes=1)
    user = user_of(tmp_path, cluster)
    run = submit(user)
    phase_is(user, run, cluster, "running")
    cluster.kill_controller()
    for name in ("job_state", "job_state.old", "last_config_lite"):
        (cluster.directory / "state" / name).unlink(missing_ok=True)
    cluster.start_controller()
    wait_until(lambda: cluster.run("sinfo", "-h", check=False).returncode == 0, "slurmctld", cluster)
    number = str(json.loads((run / "journal.jsonl").read_text().splitlines()[-1])["job"])
    stranger = cluster.submit("sleep 600", "--hold")
    while int(stranger) < int(number):
        stranger = cluster.submit("sleep 600", "--hold")
    assert stranger == number, "the controller gives out its numbers again"
    seen = status(user, run)
    assert (seen["job"], seen["job_proven"], seen["phase"]) == (None, False, "lost")
    assert "nothing was ended" in user.run("cancel", str(run), "--force", status=3).stderr
    assert cluster.state(stranger) == "PENDING"


def test_a_job_about_which_slurm_shows_nothing_is_ended_only_by_force(
    user: User, slurm_cluster: VirtualCluster
) -> None:
    """A site hides what identifies a job: squeue prints its state alone."""
    run = submit(user)
    phase_is(user, run, slurm_cluster, "running")
    put(user, {"squeue": "#!/bin/bash\n/usr/bin/squeue \"$@\" | sed 's/|[^|]*|[^|]*|[^|]*$/|(null)||(null)/'\n"})
    seen = status(user, run)
    assert (seen["phase"], seen["job_proven"]) == ("running", None)
    assert "may be another one" in str(seen["detail"])
    job = str(seen["job"])
    assert "was not ended" in user.run("cancel", str(run), status=3).stderr
    assert slurm_cluster.state(job) == "RUNNING"
    user.run("cancel", str(run), "--force")
    slurm_cluster.wait(job, "CANCELLED", "COMPLETED", "FAILED")


def test_a_comment_that_a_site_has_rewritten(user: User, slurm_cluster: VirtualCluster) -> None:
    """The command still identifies the job."""
    run = submit(user)
    job = str(status(user, run)["job"])
    slurm_cluster.run("scontrol", "update", f"jobid={job}", 'comment={"APS": {"auto_resume_mode": "requeue"}}')
    assert status(user, run)["job_proven"] is True
    user.run("cancel", str(run))
    slurm_cluster.wait(job, "CANCELLED", "COMPLETED", "FAILED")


@pytest.fixture
def user(slurm_cluster: VirtualCluster, tmp_path: Path) -> User:
    return user_of(tmp_path, slurm_cluster)
