"""Sites that refuse: without GPUs in GRES, with a job_submit plugin, with an older select plug-in; a wrong SLURM_CONF.

Cost: two clusters, about 15 s.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backends.running import TOY, User, user_of
from tests.support.slurm.config import ClusterOptions
from tests.support.slurm.virtual_cluster import VirtualCluster

WANTS_ACCOUNT = """
function slurm_job_submit(job, partitions, uid)
    if job.account == nil then
        slurm.log_user("Please name the account of your project.")
        return slurm.ERROR
    end
    if job.partition == "short" then
        return slurm.ERROR
    end
    return slurm.SUCCESS
end
function slurm_job_modify(job, record, partitions, uid)
    return slurm.SUCCESS
end
return slurm.SUCCESS
"""
SHAPE = ClusterOptions(nodes=2, gpus=0, job_submit=WANTS_ACCOUNT)
ASKED = ("submit", "small.py", "--entrypoint", TOY, "--json", "--gpus-per-node", "4")


@pytest.fixture
def user(tmp_path: Path, shaped_cluster: VirtualCluster) -> User:
    found = user_of(tmp_path, shaped_cluster)
    (tmp_path / "clusters/virtual.toml").write_text('extends = "slurm"\n')
    return found


def test_a_job_that_the_site_refuses_is_a_wrong_request(user: User) -> None:
    done = user.run(*ASKED, "--unset-sbatch", "gpus-per-node", status=2)  # Slurm looks at GPUs before it asks the site
    assert "Please name the account of your project." in done.stderr
    assert "--account" in done.stderr.partition("refused the job")[2]
    assert user.runs() == []
    # Without a word it could be anything, and a script may try again.
    silent = ("--unset-sbatch", "gpus-per-node", "--account", "gpt", "--partition", "short")
    assert (
        "a check of the site (job_submit plugin) may refuse without words" in user.run(*ASKED, *silent, status=3).stderr
    )
    assert user.runs() == []


def test_the_hint_for_a_site_without_gres_works(user: User, shaped_cluster: VirtualCluster) -> None:
    asked = (*ASKED, "--account", "gpt")
    done = user.run(*asked, status=2)
    assert "--unset-sbatch gpus-per-node" in done.stderr
    assert "gpus-per-node = false" in done.stderr
    answer = json.loads(user.run(*asked, "--unset-sbatch", "gpus-per-node").stdout)
    assert shaped_cluster.wait(answer["job"], "COMPLETED", "FAILED") == "COMPLETED"
    assert len(user.seen(Path(answer["run_dir"]))) == 4


def test_an_allocation_without_gres_needs_the_number_of_gpus(user: User) -> None:
    options = ("-N2", "--exclusive", "-A", "gpt")
    done = user.salloc("run", "small.py", "--entrypoint", TOY, options=options, status=2)
    assert "Slurm counts no GPUs on n1, and the profile does not say how many a node has" in done.stderr
    user.salloc("run", "small.py", "--entrypoint", TOY, "--gpus-per-node", "4", options=options)
    assert {rank["environment"]["SLURM_CPUS_PER_TASK"] for rank in user.seen(user.runs()[-1])} == {"2"}


def test_probe_asks_as_the_site_wants_it(user: User) -> None:
    done = user.run("clusters", "probe")
    assert "no option could be tried, because Slurm refuses even a plain job" in done.stderr
    assert "Please name the account" in done.stderr
    done = user.run("clusters", "probe", "--account", "gpt")
    assert "no option could be tried" not in done.stderr
    assert 'account = "gpt"' in done.stdout
    assert "sbatch --test-only accepts --exclusive" in done.stdout


def test_doctor_says_for_how_many_gpus_a_job_was_refused(user: User) -> None:
    done = user.run("doctor", "--account", "gpt", status=1)
    assert "8 GPUs on each node" in done.stdout


@pytest.mark.parametrize("command", [("submit", "small.py", "--entrypoint", TOY), ("clusters", "probe"), ("doctor",)])
def test_a_wrong_slurm_conf_is_named_at_once(user: User, command: tuple[str, ...]) -> None:
    done = user.run(*command, environ={"SLURM_CONF": "/nowhere/slurm.conf"}, status=3, timeout_s=20)
    assert "SLURM_CONF names /nowhere/slurm.conf, and there is no such file" in f"{done.stdout}{done.stderr}"


def test_the_older_select_plugin(new_cluster: Callable[..., VirtualCluster], tmp_path: Path) -> None:
    """It knows --gres alone: the hint names it, and an allocation with it is read."""
    cluster = new_cluster(nodes=2, gpus=4, select="select/cons_res")
    user = user_of(tmp_path, cluster)
    (tmp_path / "clusters/virtual.toml").write_text('extends = "slurm"\n')
    user.salloc("run", "small.py", "--entrypoint", TOY, options=("-N2", "--gres=gpu:4", "--exclusive"))
    seen = [note["environment"] for note in user.seen(user.runs()[-1])]
    assert [rank["SLURM_CPUS_PER_TASK"] for rank in seen] == ["2"] * 8
    answer = json.loads(user.run(*ASKED, "--unset-sbatch", "gpus-per-node", "--sbatch", "gres", "--nodes", "2").stdout)
    assert cluster.wait(answer["job"], "COMPLETED", "FAILED") == "COMPLETED"
