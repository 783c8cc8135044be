"""`launcher doctor` on a real Slurm: no finding about healthy nodes, and every planted fault on its own node."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.backends.containers import contained, missing
from tests.backends.running import LAUNCHER, PROFILE, User, user_of
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster

Found = dict[str, dict[str, dict[str, Any]]]
"""Checks by node and name; the login node's under `login`."""


def doctor(user: User, *arguments: str, status: int, salloc: tuple[str, ...] = ()) -> tuple[Found, dict[str, Any]]:
    """`launcher doctor ARGUMENTS --json`."""
    words = ("doctor", *arguments, "--json")
    done = user.salloc(*words, options=salloc, status=status) if salloc else user.run(*words, status=status)
    answer: dict[str, Any] = json.loads(done.stdout)
    found = {"login": answer["login"]["checks"], **{each["node"]: each["checks"] for each in answer["nodes"]}}
    return {where: {check["name"]: check for check in checks} for where, checks in found.items()}, answer


def bad(found: Found) -> set[tuple[str, str, str]]:
    """Where, what and how bad: everything that is neither ok nor unknown."""
    return {
        (where, name, check["verdict"])
        for where, checks in found.items()
        for name, check in checks.items()
        if check["verdict"] in ("warn", "fail")
    }


def profile(user: User, *lines: str) -> None:
    (user.directory / "clusters/virtual.toml").write_text(PROFILE + "\n".join([*lines, ""]))


@pytest.fixture
def user(slurm_cluster: VirtualCluster, tmp_path: Path) -> User:
    return user_of(tmp_path, slurm_cluster)


@pytest.fixture
def own(new_cluster: Callable[..., VirtualCluster], tmp_path: Path) -> tuple[VirtualCluster, User]:
    """Three nodes to be spoilt, with namespaces of their own."""
    cluster = new_cluster(nodes=3)
    if not cluster.namespaces or os.geteuid() != 0:
        pytest.skip("a node's own mounts need namespaces, and root")
    return cluster, user_of(tmp_path, cluster)


def test_nothing_is_said_of_a_healthy_login_node(user: User) -> None:
    found, answer = doctor(user, status=0)
    assert bad(found) == set()
    assert answer["nodes"] == []
    for name in ("slurm", "munge", "partition", "nodes", "directives", "run root", "python"):
        assert found["login"][name]["verdict"] == "ok", name
    assert found["login"]["account"]["verdict"] == "skip"
    assert not (user.directory / "runs").exists()


def test_nothing_is_said_of_healthy_nodes(user: User, slurm_cluster: VirtualCluster) -> None:
    found, answer = doctor(user, "--nodes=2", "--quick", status=0)
    assert bad(found) == set()
    assert answer["not_checked"] is None
    assert set(found) == {"login", "n1", "n2"}
    for node in ("n1", "n2"):
        assert found[node]["ranks"]["value"] == "2 of 2"
        for name in ("start", "memory", "scratch", "shared", "rendezvous", "alike"):
            assert found[node][name]["verdict"] == "ok", name
        assert found[node]["gpus"]["verdict"] == "skip"
    assert abs(found["n2"]["clock"]["number"]) < 0.5
    assert slurm_cluster.run("squeue", "-h", "-o", "%i").stdout == ""


def test_in_an_allocation_the_ranks_join_with_gloo_where_torch_is_there(user: User) -> None:
    pytest.importorskip("torch")
    found, _ = doctor(user, "--nodes=2", status=0, salloc=("-N2", "--ntasks-per-node=2"))
    assert bad(found) == set()
    for node in ("n1", "n2"):
        assert found[node]["collective"]["value"].startswith("gloo, 4 ranks (on CPUs")
        # What gloo does on a CPU says nothing of the network: unknown is never ok.
        assert found[node]["all-reduce"]["verdict"] == "skip"
        assert found[node]["matmul"]["verdict"] == "skip"


def test_a_table_for_people(user: User) -> None:
    done = user.run("doctor", "--nodes=2", "--quick")
    rows = done.stdout.splitlines()
    assert any(re.match(r"CHECK +n1\b", line) for line in rows)
    assert rows[-1].startswith("2 nodes and the login node: ")
    assert " 0 warnings, 0 failed" in rows[-1]
    assert done.stderr.startswith("job ")


def test_a_node_whose_prolog_fails(new_cluster: Callable[..., VirtualCluster], tmp_path: Path) -> None:
    prolog = tmp_path / "prolog"
    prolog.write_text("#!/bin/bash\n[[ $SLURMD_NODENAME != n2 ]]\n")
    prolog.chmod(0o755)
    cluster = new_cluster(nodes=2, extra=(f"Prolog={prolog}",))
    (tmp_path / "user").mkdir()
    user = user_of(tmp_path / "user", cluster)
    found, answer = doctor(user, "--nodes=2", "--quick", status=1)
    assert bad(found) == {("n2", "node", "fail")}
    assert "Prolog error" in found["n2"]["node"]["reason"]
    assert "held" in answer["not_checked"]
    assert cluster.run("squeue", "-h", "-o", "%i").stdout == ""
    # Now that it is known, nothing is submitted that would wait for it.
    again, answer = doctor(user, "--nodes=2", "--quick", status=1)
    assert bad(again) == {("login", "nodes", "fail")}
    assert "n2 is drained (Prolog error)" in answer["not_checked"]
    # The other node is as healthy as it was.
    alone, _ = doctor(user, "--nodes=1", "--quick", "--nodelist=n1", status=0)
    assert bad(alone) == set()


def test_a_missing_mount_a_torn_one_and_a_full_disk(own: tuple[VirtualCluster, User], tmp_path: Path) -> None:
    cluster, user = own
    common = tmp_path / "common"
    common.mkdir()
    for node in ("n1", "n2", "n3"):
        there = cluster.directory / "run" / node  # each node's own /run
        (there / "scratch").mkdir()
        if node != "n3":
            (there / "data").mkdir()
        if node == "n2":
            (there / "shared").mkdir()
        else:
            (there / "shared").symlink_to(common)
    cluster.run("srun", "-w", "n1", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/run/scratch")
    profile(user, 'mounts = ["/run/data:/run/data:ro", "/run/shared"]', 'scratch = "/run/scratch"')
    found, _ = doctor(user, "--nodes=3", "--quick", status=1)
    assert bad(found) == {("n1", "scratch", "fail"), ("n2", "shared", "fail"), ("n3", "mounts", "fail")}
    assert found["n1"]["scratch"]["value"] == "full"
    assert "files written by n1, n3 are not seen" in found["n2"]["shared"]["reason"]
    assert "/run/data" in found["n3"]["mounts"]["reason"]
    assert list(common.iterdir()) == []


def test_inputs_of_a_recipe_are_looked_at_from_each_node(own: tuple[VirtualCluster, User], tmp_path: Path) -> None:
    """n1 sees what the login node sees; n2 another disk at one place, n3 nothing at another."""
    cluster, user = own
    (user.directory / "reads.py").write_text("def configure(hf_path=None, data=None, tokenizer=None):\n    ...\n")
    places = {name: tmp_path / name for name in ("model", "tokens", "words")}
    for place in places.values():
        place.mkdir()
    (places["model"] / "config.json").write_text("{}")
    for ending in (".bin", ".idx"):
        (places["tokens"] / f"a{ending}").write_text("1" * 100)
    (places["words"] / "tokenizer.json").write_text("{}")
    asked = ("reads.py", f"hf_path={places['model']}", f"data={places['tokens']}/a", "tokenizer=words/tokenizer.json")
    found, _ = doctor(user, *asked, "--nodes=3", "--quick", status=0)
    assert bad(found) == set()
    assert (found["login"]["inputs"]["verdict"], found["login"]["inputs"]["value"]) == ("skip", "4 found")
    assert "was not run" in found["login"]["inputs"]["reason"]
    assert {found[node]["inputs"]["value"] for node in ("n1", "n2", "n3")} == {"4 found"}

    other = tmp_path / "another disk"
    other.mkdir()
    (other / "a.bin").write_text("2" * 100)
    (other / "a.idx").write_text("1" * 99)
    cluster.run("srun", "-w", "n2", "mount", "--bind", str(other), str(places["tokens"]))
    cluster.run("srun", "-w", "n3", "mount", "-t", "tmpfs", "tmpfs", str(places["words"]))
    cluster.run("srun", "-w", "n3", "mount", "-t", "tmpfs", "tmpfs", str(places["model"]))
    found, _ = doctor(user, *asked, "hf_path=/nowhere", "--quick", status=0)
    assert bad(found) == {("login", "inputs", "warn")}
    assert found["login"]["inputs"]["reason"] == "hf_path: /nowhere: No such file or directory"
    found, _ = doctor(user, *asked, "--nodes=3", "--quick", status=1)
    assert bad(found) == {("n2", "inputs", "fail"), ("n3", "inputs", "fail")}
    assert (
        f"{places['tokens']}/a.bin is another one than on the login node: its first 64 KiB"
        in found["n2"]["inputs"]["reason"]
    )
    assert "/a.idx is another one than on the login node: 99 bytes, and not 100" in found["n2"]["inputs"]["reason"]
    assert found["n3"]["inputs"]["value"] == "2 of 4 missing or different"
    assert "tokenizer.json: No such file or directory" in found["n3"]["inputs"]["reason"]
    assert "0 names, and not 1" in found["n3"]["inputs"]["reason"]


def test_a_node_that_does_not_see_the_run(own: tuple[VirtualCluster, User]) -> None:
    cluster, user = own
    (user.directory / "runs").mkdir()
    cluster.run("srun", "-w", "n3", "mount", "-t", "tmpfs", "tmpfs", str(user.directory / "runs"))
    # In memory: other tests may keep the disk busy, and a slow one would be found, too.
    profile(user, 'scratch = "/dev/shm"')
    found, _ = doctor(user, "--nodes=3", "--quick", f"--rendezvous-timeout={seconds(5):g}", status=1)
    assert ("n3", "ranks", "fail") in bad(found)
    assert "task 4 launch failed" in found["n3"]["ranks"]["reason"]
    for node in ("n1", "n2"):
        # They are well, and say who did not come.
        assert {name for where, name, _ in bad(found) if where == node} == {"rendezvous"}
        assert found[node]["rendezvous"]["value"] == "2 of 3"


def test_a_wrong_number_of_stand_in_gpus(user: User) -> None:
    lines = ('device = "gpu"', "gpus_per_node = 2", "[directives]", "gpus-per-node = false", 'gres = "gpu:1"')
    (user.directory / "clusters/virtual.toml").write_text("\n".join(['extends = "slurm"', *lines, ""]))
    found, _ = doctor(user, "--nodes=2", "--quick", status=1)
    assert found["login"]["gpus"]["verdict"] == "fail"
    assert "n1 has 8" in found["login"]["gpus"]["reason"]
    for node in ("n1", "n2"):
        assert found[node]["gpus from slurm"]["value"] == "1 of 2"
        assert "CUDA_VISIBLE_DEVICES=0 " in found[node]["gpus from slurm"]["reason"]
        assert found[node]["gpus"]["verdict"] == "fail"  # stand-ins have no driver
    assert {name for _, name, _ in bad(found)} == {"gpus", "gpus from slurm"}


def test_what_slurm_refuses_is_a_finding(user: User) -> None:
    profile(user, 'partition = "nowhere"', 'mpi = "pmi9"', 'topology = "block"')
    found, answer = doctor(user, "--nodes=2", status=1)
    assert {name for _, name, _ in bad(found)} == {"partition", "nodes", "mpi", "topology", "directives"}
    assert "nvalid partition" in found["login"]["directives"]["reason"]
    assert answer["not_checked"].startswith("nothing was submitted")


def test_a_silent_slurm(new_cluster: Callable[..., VirtualCluster], tmp_path: Path) -> None:
    cluster = new_cluster(nodes=1, message_timeout_s=2)
    user = user_of(tmp_path, cluster)
    cluster.stop_controller()
    found, answer = doctor(user, "--nodes=1", status=3)
    assert bad(found) == {("login", "slurm", "fail")}
    assert found["login"]["gpus"]["reason"] == "Slurm did not answer"
    assert answer["exit_status"] == 3


def test_a_profile_that_no_run_can_be_planned_with(user: User) -> None:
    profile(user, "[directives]", "output = 'elsewhere'")
    found, _ = doctor(user, status=1)
    assert bad(found) == {("login", "plan", "fail")}
    assert "output is managed by the launcher" in found["login"]["plan"]["reason"]


def test_a_wrong_request(user: User) -> None:
    done = user.run("doctor", "--nodes=2", "--env=lacking", status=2)
    assert "passes on the value of this shell" in done.stderr
    assert "there is no cluster profile" in user.run("doctor", "--cluster=nowhere", status=2).stderr


def test_the_job_has_what_training_would_have(slurm_cluster: VirtualCluster, tmp_path: Path, image_file: Path) -> None:
    if (reason := missing("bwrap")) is not None:
        pytest.skip(reason)
    (tmp_path / "data").mkdir()
    mounts = [f"{tmp_path}/data:/mnt/data"]
    inside = contained(tmp_path, "bwrap", image_file, slurm_cluster, mounts=mounts)
    found, _ = doctor(inside.user, "--cluster=here", "--nodes=2", f"--image={image_file}", status=0)
    assert bad(found) == {(node, "training stack", "warn") for node in ("n1", "n2")}, "the image has no torch"
    for node in ("n1", "n2"):
        assert found[node]["container"]["value"].startswith("bwrap container after ")
        assert found[node]["mounts"]["value"] == "1 found"
        # The run's directory and the mount, by its name inside.
        assert found[node]["shared"]["value"].startswith("2 in ")
        assert "is not mounted into the container" in found[node]["scratch"]["reason"]
        assert "torch is not in this image" in found[node]["collective"]["reason"]


def test_ctrl_c_takes_the_job_out_of_the_queue(user: User, slurm_cluster: VirtualCluster) -> None:
    blocker = slurm_cluster.submit("sleep 600", "-N4", "--exclusive")
    slurm_cluster.wait(blocker, "RUNNING")
    argv = [str(LAUNCHER), "doctor", "--nodes=2", "--quick", "--json"]
    with subprocess.Popen(argv, cwd=user.directory, env=user.environ, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + seconds(30)
        while "doctor" not in slurm_cluster.run("squeue", "-h", "-o", "%j").stdout and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=seconds(30))
    answer = json.loads(out)
    assert answer["not_checked"] == "ended by Ctrl-C"
    assert process.returncode == 1
    assert "doctor" not in slurm_cluster.run("squeue", "-h", "-o", "%j").stdout
