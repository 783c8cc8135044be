"""Python functions as jobs, on a real Slurm."""

import os
import socket
import time
from pathlib import Path

import pytest

from launcher._util.errors import ConfigError, OutsideError, PrerequisiteError, SlurmError
from launcher.backends.task import TaskJob, outcome, parameters, submit_task
from launcher.config.cluster import Cluster
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster


def where_am_i(greeting: str) -> dict[str, str | None]:
    """What a task sees on its node."""
    return {
        "greeting": greeting,
        "host": socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID"),
        "cpus": os.environ.get("SLURM_CPUS_PER_TASK"),
        "leaked": os.environ.get("SBATCH_PARTITION"),
    }


def fail() -> None:
    """A task that raises."""
    raise ValueError("this is why")


@pytest.fixture
def client(slurm_cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch) -> VirtualCluster:
    """This process is a client of the virtual cluster."""
    for name, value in slurm_cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return slurm_cluster


def finished(task: TaskJob) -> TaskJob:
    """Wait for the result."""
    deadline = time.monotonic() + seconds(60)
    while not task.result.exists():
        assert time.monotonic() < deadline, task.log.read_text()
        time.sleep(0.1)
    return task


SITE = Cluster(name="site", partition="batch", directives={"gpus-per-node": True, "exclusive": True, "mem": "0"})


def test_a_function_runs_on_a_node_outside_of_the_shells_allocation(
    client: VirtualCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    given = parameters(SITE, name="image", cpus=2)
    folder = tmp_path / "a folder"
    task = finished(submit_task(where_am_i, ("it's me",), folder=folder, parameters=given))
    seen = outcome(task)
    assert seen["greeting"] == "it's me"
    assert seen["job"] == task.job != "4711"
    assert seen["cpus"] == "2"
    assert seen["leaked"] is None
    assert not client.options.namespaces or seen["host"] in client.options.names
    assert os.environ["SLURM_JOB_ID"] == "4711"


def test_what_a_task_raises_is_said_with_the_place_of_its_log(client: VirtualCluster, tmp_path: Path) -> None:
    task = finished(submit_task(fail, (), folder=tmp_path / "task", parameters=parameters(SITE, name="fails")))
    with pytest.raises(OutsideError, match="ValueError: this is why") as caught:
        outcome(task)
    assert caught.value.where == str(task.log)


def test_sbatchs_own_words_are_kept(client: VirtualCluster, tmp_path: Path) -> None:
    with pytest.raises(SlurmError, match="nvalid partition"):
        given = parameters(SITE, name="image", directives={"partition": "nowhere"})
        submit_task(where_am_i, ("x",), folder=tmp_path / "task", parameters=given)


def test_the_sites_rules_hold_for_tasks_and_its_gpus_do_not() -> None:
    given = parameters(SITE, name="image", cpus=4, directives={"exclusive": False, "time": "10:00"})
    assert given["additional_parameters"] == {
        "mem": "0",
        "partition": "batch",
        "time": "10:00",
        "nodes": 1,
        "ntasks-per-node": 1,
        "cpus-per-task": 4,
    }


def test_what_cannot_be_a_job_is_refused() -> None:
    with pytest.raises(PrerequisiteError, match="no Slurm"):
        parameters(Cluster(name="laptop", scheduler="local"), name="image")
    with pytest.raises(ConfigError, match="single quote"):
        parameters(SITE, name="image", directives={"comment": "it's"})
