"""One recipe, three ways to run it: what a task executes and sees is the same."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.backends.running import PROFILE, TOY, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster

# All that may differ between backends: what Slurm gives a task, and what follows from where it runs.
DIFFERING = re.compile(
    r"SLURM.*|MASTER_ADDR|MASTER_PORT|LAUNCHER_RUN_DIR|LAUNCHER_HEARTBEATS|PWD|TMPDIR|CUDA_VISIBLE_DEVICES"
    r"|GPU_DEVICE_ORDINAL|ROCR_VISIBLE_DEVICES|ZE_AFFINITY_MASK|HOSTNAME|_"
)
SETTINGS = ("text=a b", "train.train_iters=20", "model.x={A:1,B:2}", "model.y=[[a, b],[0.5,0.5]]", "z=${oc.env:HOME}")


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    return user_of(tmp_path, slurm_cluster)


def everywhere(user: User, cluster: VirtualCluster, nodes: int, ranks: int, *, local: bool) -> dict[str, Path]:
    """The run directories of the same request with each backend."""
    shape = ("--gpus-per-node", str(ranks))
    common = ("small.py", "--entrypoint", TOY, *SETTINGS, *shape, "--env", "QUOTED=it's $HOME")
    runs = {}
    if local:
        # The profile of the same name that starts ranks on this machine: all else that it says is the same.
        here = user.directory / "here"
        here.mkdir()
        (here / "virtual.toml").write_text(PROFILE.replace("device", 'scheduler = "local"\ndevice'))
        environ = {"LAUNCHER_CLUSTERS": str(here)}
        user.run("run", *common, *("--nodes", "1", "--run-root", "local"), environ=environ)
        runs["local"] = next((user.directory / "local").glob("small/*"))
    slurm = ("--nodes", str(nodes))
    options = ("-N", str(nodes), f"--ntasks-per-node={ranks}", f"--gpus-per-node={ranks}")
    user.salloc("run", *common, *slurm, "--run-root", "allocation", options=options)
    runs["allocation"] = next((user.directory / "allocation").glob("small/*"))
    answer = json.loads(user.run("submit", *common, *slurm, "--run-root", "batch", "--json").stdout)
    assert cluster.wait(answer["job"], "COMPLETED", "FAILED") == "COMPLETED"
    runs["batch"] = Path(answer["run_dir"])
    return runs


def without_paths(backend: str, run: Path) -> Any:
    """A plan with what may differ between backends taken out: backend, run id, nonce of the submission, paths."""
    text = (run / "plan.json").read_text().replace(str(run), "RUN").replace(run.name, "ID")
    plan = json.loads(re.sub(r'"launcher:ID:[0-9a-f]{12}"', '"launcher:ID:NONCE"', text))
    assert plan.pop("backend") == backend
    assert plan["request"].pop("run_root") == backend
    assert (plan.pop("allocation") is not None) == (backend == "allocation")
    return plan


@pytest.mark.parametrize(("nodes", "ranks", "local"), [(1, 4, True), (2, 2, False)])
def test_what_a_task_executes_is_the_same_with_every_backend(
    user: User, slurm_cluster: VirtualCluster, nodes: int, ranks: int, local: bool
) -> None:
    runs = everywhere(user, slurm_cluster, nodes, ranks, local=local)
    for name in ("argv.json", "step.sh"):
        assert len({(run / name).read_bytes() for run in runs.values()}) == 1, name
    plans = [without_paths(backend, run) for backend, run in runs.items()]
    assert all(plan == plans[0] for plan in plans)
    environments = {backend: [rank["environment"] for rank in user.seen(run)] for backend, run in runs.items()}
    assert {len(found) for found in environments.values()} == {nodes * ranks}
    for backend in environments:
        for rank, found in enumerate(environments[backend]):
            twin = environments["batch"][rank]
            differing = {name for name in {*found, *twin} if found.get(name) != twin.get(name)}
            assert {name for name in differing if not DIFFERING.fullmatch(name)} == set(), backend
    for backend, run in runs.items():
        for rank, seen in enumerate(user.seen(run)):
            assert seen["environment"]["RANK"] == str(rank), backend
            assert seen["environment"]["LOCAL_RANK"] == str(rank % ranks)
            assert seen["environment"]["WORLD_SIZE"] == str(nodes * ranks)
            assert seen["environment"]["LOCAL_WORLD_SIZE"] == str(ranks)
            assert seen["environment"]["QUOTED"] == "it's $HOME"
            assert seen["request"]["arguments"] == {"text": "a b"}
            assert tuple(each["text"] for each in seen["request"]["overrides"]) == SETTINGS[1:]


def test_ranks_meet_at_the_first_node_of_the_step(user: User, slurm_cluster: VirtualCluster) -> None:
    # The step takes two nodes of an allocation of three.
    user.salloc("run", "small.py", "--entrypoint", TOY, "--nodes", "2", options=("-N3", "--ntasks-per-node=2"))
    seen = [rank["environment"] for rank in user.seen(user.runs()[0])]
    assert {rank["MASTER_ADDR"] for rank in seen} == {slurm_cluster.address("n1")}
    ports = {int(rank["MASTER_PORT"]) for rank in seen}
    assert len(ports) == 1
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert 20000 <= ports.pop() < min(low, 29000)


def test_a_rank_has_the_cpus_that_the_job_or_the_profile_gives_it(user: User, slurm_cluster: VirtualCluster) -> None:
    profile = user.directory / "clusters/virtual.toml"
    profile.write_text(profile.read_text() + "cpus_per_task = 2\n")
    user.salloc("run", "small.py", "--entrypoint", TOY, options=("-N1", "--exclusive"))
    user.salloc("run", "small.py", "--entrypoint", TOY, options=("-N1", "-n2", "-c3"))
    asked = ("submit", "small.py", "--entrypoint", TOY, "--json")
    jobs = [json.loads(user.run(*asked, *more).stdout)["job"] for more in ((), ("--sbatch", "cpus-per-task=4"))]
    for job in jobs:
        assert slurm_cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED"
    found = [{rank["environment"]["SLURM_CPUS_PER_TASK"] for rank in user.seen(run)} for run in user.runs()]
    # In an allocation the ranks share what it has: the eight CPUs of a node, or two times three.
    assert found == [{"4"}, {"3"}, {"2"}, {"4"}]


def test_nothing_else_of_the_shell_reaches_a_rank(user: User, slurm_cluster: VirtualCluster) -> None:
    function = {"BASH_FUNC_hello%%": "() {  echo hello\n}"}
    noise = {"PYTHONPATH": "/nowhere", "LD_PRELOAD_X": "x", "EDITOR": "vi", "SLURM_NTASKS": "99", **function}
    user.run("run", "small.py", "--entrypoint", TOY, "--cluster", "local", "--gpus-per-node", "1", environ=noise)
    answer = json.loads(user.run("submit", "small.py", "--entrypoint", TOY, "--json", environ=noise).stdout)
    slurm_cluster.wait(answer["job"], "COMPLETED")
    for run in user.runs():
        for rank in user.seen(run):
            assert not {"PYTHONPATH", "LD_PRELOAD_X", "EDITOR", *function} & set(rank["environment"])
            assert rank["environment"]["WORLD_SIZE"] in ("1", "2")


def test_a_second_job_of_one_submission_leaves_it_alone(user: User, slurm_cluster: VirtualCluster) -> None:
    answer = json.loads(user.run("submit", "small.py", "--entrypoint", TOY, "--json").stdout)
    slurm_cluster.wait(answer["job"], "COMPLETED")
    run = Path(answer["run_dir"])
    twin = subprocess.run(
        ["sbatch", "--parsable", str(run / "sbatch.sh")],
        env=slurm_cluster.environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert slurm_cluster.wait(twin, "FAILED") == "FAILED"
    assert [path.name for path in (run / "attempts").iterdir()] == ["000"]
    assert f"job {answer['job']} owns this run" in (run / "sbatch.log").read_text()
