"""A job from an unedited profile, written by `launcher clusters probe` on the cluster that it runs on."""

import json
from pathlib import Path

from tests.backends.running import TOY, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster


def test_a_job_runs_from_a_probed_profile(tmp_path: Path, slurm_cluster: VirtualCluster) -> None:
    user = user_of(tmp_path, slurm_cluster)
    slurm_cluster.wait_idle()
    user.run("clusters", "probe", "--output", "probed/here.toml")
    environ = {"LAUNCHER_CLUSTERS": str(tmp_path / "probed")}
    listed = user.run("clusters", "list", environ=environ)
    assert "here*" in listed.stdout
    options = ("--cluster", "here", "--entrypoint", TOY, "--nodes", "2", "--json")
    answer = json.loads(user.run("submit", "small.py", *options, environ=environ).stdout)
    assert slurm_cluster.wait(answer["job"], "COMPLETED", "FAILED") == "COMPLETED"
    (run,) = user.runs()
    assert len(user.seen(run)) == 16
