"""What goes wrong on a node: killed while unpacking, leftovers of dead jobs, a full disk, signals, other users."""

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher._util.shell import LocalShell
from launcher.backends import prepare
from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.discovery.host import detect_host
from launcher.discovery.image import resolve_image
from launcher.planning import make
from launcher.planning.backend import LOCAL
from launcher.planning.model import Plan
from launcher.scripts import scripts
from tests.backends.containers import PROGRAM, contained, found, logs, missing, result
from tests.backends.running import LAUNCHER, TOY
from tests.backends.test_secrets import CANARY, assert_nowhere
from tests.backends.test_secrets import PROGRAM as TELLS_ITS_SECRET
from tests.backends.tiny import tiny_image
from tests.support.building import RECIPE
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster

pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(missing("bwrap") is not None, reason=str(missing("bwrap")))]


@pytest.fixture(scope="module")
def tiny(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_image(debian, tmp_path_factory.mktemp("tiny") / "tiny.sqsh")


def plan_of(image: Path, directory: Path) -> Plan:
    """A local plan of one rank with its runs and its scratch disk in `directory`."""
    profile = {
        "name": "t",
        "scheduler": "local",
        "device": "cpu",
        "runtime": "bwrap",
        "scratch": str(directory / "scratch"),
    }
    cluster, host = Cluster.model_validate(profile), detect_host(os.environ, directory)
    request = Request(recipe="small.py", image=str(image))
    seen = resolve_image(str(image), cluster=cluster, host=host, shell=LocalShell())
    code = (("entrypoint.py", PROGRAM),)
    return make.make_plan(make.PlanInputs(request, cluster, host, LOCAL, RECIPE, {}, (), code, image=seen))


OURS = "launcher-012345678901-abcdef-1-000"


def entering(plan: Plan, *command: str, verb: str = "run", name: str = OURS) -> "subprocess.Popen[str]":
    """enter.sh with a command, in a process group of its own."""
    prepare.create(plan, scripts(plan)) if not Path(plan.run_dir).exists() else None
    argv = ["bash", f"{plan.run_dir}/enter.sh", verb, name, *command]
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def entered(plan: Plan, *command: str, verb: str = "run", name: str = OURS) -> tuple[int, str, str]:
    """Its status, and what it printed."""
    process = entering(plan, *command, verb=verb, name=name)
    out, err = process.communicate(timeout=seconds(60))
    return process.returncode, out, err


def trees(directory: Path) -> list[str]:
    """The containers on the scratch disk, and what is half unpacked."""
    return sorted(path.name for path in directory.glob("scratch/launcher-*/launcher-*") if path.is_dir())


def test_what_was_killed_while_unpacking_is_never_taken_for_whole(image_file: Path, tmp_path: Path) -> None:
    plan = plan_of(image_file, tmp_path)
    for share in (0.02, 0.3):
        process = entering(plan, "cat", "/etc/made-for")
        while len(list(tmp_path.glob("scratch/*/*.partial/root/usr/lib/*/*"))) < share * 1000:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert [name.rpartition(".")[2] for name in trees(tmp_path)] == ["partial"]
    status, out, err = entered(plan, "bash", "-c", "cat /etc/made-for; find /usr /etc -xdev | wc -l")
    assert (status, err.count("launcher: unpacking")) == (0, 1)
    made_for, files = out.split()
    listed = subprocess.run(["unsquashfs", "-ls", str(image_file)], capture_output=True, text=True, check=True).stdout
    packed = [line for line in listed.splitlines() if line.startswith(("squashfs-root/usr", "squashfs-root/etc"))]
    assert made_for == "tests"
    assert int(files) >= len(packed)
    # The next command of the job finds it there; afterwards nothing is left.
    assert entered(plan, "cat", "/etc/made-for")[1:] == ("tests\n", "")
    assert entered(plan, verb="remove")[0] == 0
    assert trees(tmp_path) == []


def test_unsquashfs_that_fails_is_reported(image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.run(["which", "unsquashfs"], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/unsquashfs").write_text(
        f'#!/bin/bash\n[[ $* == *" -d "* ]] || exec {real} "$@"\n'
        f'{real} "$@" &\nsleep 0.2\nkill -9 $!\nwait\nkill -9 $$\n'
    )
    (tmp_path / "bin/unsquashfs").chmod(0o755)
    user = contained(tmp_path, "bwrap", image_file)
    user.user.environ["PATH"] = f"{tmp_path / 'bin'}:{user.user.environ['PATH']}"
    run, _ = user.local(status=1)
    assert f"cannot unpack {image_file}" in result(run)["first_failing_rank"]["what"]
    assert trees(tmp_path) == []


def test_leftovers_of_dead_jobs_are_removed_and_living_ones_kept(tiny: Path, tmp_path: Path) -> None:
    base = tmp_path / f"scratch/launcher-{os.geteuid()}"
    names = {"dead": 3600, "young": 60, "held": 3600, "half.partial": 3600}
    for name, age_s in names.items():
        root = base / f"launcher-{name}" / "root"
        root.mkdir(parents=True)
        (root / "file").touch()
        root.chmod(0o555)
        lock = base / f"launcher-{name.removesuffix('.partial')}.lock"
        lock.touch()
        os.utime(lock, (time.time() - age_s,) * 2)
    with (base / "launcher-held.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert entered(plan_of(tiny, tmp_path), "true")[0] == 0
    kept = [name for name in trees(tmp_path) if "0123" not in name]
    assert kept == ["launcher-held", "launcher-young"]
    assert sorted(path.name for path in base.glob("*.lock") if "0123" not in path.name) == [
        "launcher-held.lock",
        "launcher-young.lock",
    ]


def test_a_container_in_use_is_not_removed(tiny: Path, tmp_path: Path) -> None:
    plan = plan_of(tiny, tmp_path)
    process = entering(plan, "bash", "-c", "echo in; while :; do :; done")
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    assert entered(plan, verb="remove")[0] == 0
    assert len(trees(tmp_path)) == 1
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert entered(plan, verb="remove")[0] == 0
    assert trees(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A scratch disk of 20 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_scratch_disk_is_named_in_the_log_and_in_the_outcome(
    image_file: Path, tmp_path: Path, small_disk: Path
) -> None:
    user = contained(tmp_path, "bwrap", image_file, scratch=str(small_disk))
    run, said = user.local(status=1)
    words = "MiB free, but"
    assert words in logs(run)
    assert words in result(run)["reason"]
    assert "scratch in the cluster profile" in result(run)["first_failing_rank"]["what"]
    assert words in said
    assert list(small_disk.glob("launcher-*/launcher-*")) == []


def test_where_no_container_starts_the_job_still_says_why(
    slurm_cluster: VirtualCluster, image_file: Path, tmp_path: Path
) -> None:
    user = contained(tmp_path, "bwrap", image_file, slurm_cluster, scratch="/proc/nowhere")
    run = user.submit("--nodes", "2", state="FAILED")
    assert (result(run)["outcome"], len(result(run)["failed_ranks"])) == ("failed", 4)
    assert "cannot make /proc/nowhere" in result(run)["first_failing_rank"]["what"]
    assert "cannot make /proc/nowhere" in logs(run)


def test_a_signal_reaches_the_program_in_the_container(
    slurm_cluster: VirtualCluster, image_file: Path, tmp_path: Path
) -> None:
    user = contained(tmp_path, "bwrap", image_file, slurm_cluster)
    asked = user.arguments("--cluster", "here", "toy.iters=600", "toy.seconds=0.1", "+toy.term=save", program=TOY)
    answer = json.loads(user.user.run("submit", *asked).stdout)
    run = Path(answer["run_dir"])
    while not (run / "attempts/000/metrics.jsonl").exists():
        assert slurm_cluster.state(answer["job"]) in ("PENDING", "RUNNING"), logs(run)
        time.sleep(0.05)
    slurm_cluster.run("scancel", "--signal=USR1", f"{answer['job']}.0")
    slurm_cluster.run("scancel", "--signal=TERM", f"{answer['job']}.0")
    slurm_cluster.wait(answer["job"], "COMPLETED", "FAILED")
    assert (result(run)["outcome"], result(run)["reason"]) == ("stopped", "signal SIGTERM"), logs(run)


def test_what_reaches_enter_sh_alone_is_passed_on(tiny: Path, tmp_path: Path) -> None:
    process = entering(
        plan_of(tiny, tmp_path), "bash", "-c", "trap 'echo term; exit 7' TERM; echo in; while :; do :; done"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=seconds(30))
    assert (process.returncode, out) == (7, "term\n"), err


def test_a_secret_passed_on_by_name_is_in_no_file_and_on_no_command_line(image_file: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TELLS_ITS_SECRET)
    user = contained(tmp_path, "bwrap", image_file)
    user.user.environ["HF_TOKEN"] = CANARY
    asked = user.arguments("--cluster", "alone", "--env", "HF_TOKEN", program=str(tmp_path / "program.py"))
    process = subprocess.Popen(
        [str(LAUNCHER), "run", *asked],
        cwd=tmp_path,
        env=user.user.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while not list(tmp_path.glob("runs/small/*/here-1")):
        assert process.poll() is None, process.communicate()
        assert_nowhere(tmp_path / "runs")
        time.sleep(0.02)
    assert_nowhere(tmp_path / "runs")
    process.communicate(timeout=seconds(60))
    assert_nowhere(tmp_path / "runs")
    digests = {path.read_text() for path in tmp_path.glob("runs/small/*/here-*")}
    assert digests == {hashlib.sha256(CANARY.encode()).hexdigest()}


@pytest.mark.skipif(os.geteuid() != 0, reason="every test here is one of a normal user already")
def test_a_normal_user(image_file: Path) -> None:
    uid = 65533
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name).resolve()
        image = directory / "image.sqsh"
        image.write_bytes(image_file.read_bytes())
        plan = plan_of(image, directory)
        prepare.create(plan, scripts(plan))
        (directory / "scratch").mkdir()
        subprocess.run(["chown", "-R", f"{uid}:{uid}", name], check=True)
        command = "id -u; cat /etc/made-for; : >/etc/new && echo written; echo $GREETING; cat /proc/sys/kernel/ostype"
        argv = [
            "setpriv",
            f"--reuid={uid}",
            f"--regid={uid}",
            "--clear-groups",
            "bash",
            f"{plan.run_dir}/enter.sh",
            "run",
        ]
        argv += ["launcher-012345678901-abcdef-1-000", "bash", "-c", command]
        environ = {"PATH": os.environ["PATH"], "HOME": "/"}
        done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=seconds(60))
        if "No permissions to create" in done.stderr or "Operation not permitted" in done.stderr:
            pytest.skip(f"this machine gives normal users no namespaces: {done.stderr.strip()}")
        assert done.stdout.splitlines() == [str(uid), "tests", "written", "hello from the image", "Linux"], done.stderr


def test_unpacked_once_however_many_ranks_begin_at_once(image_file: Path, tmp_path: Path) -> None:
    user = contained(tmp_path, "bwrap", image_file, gpus_per_node=6)
    run, _ = user.local()
    assert logs(run).count("launcher: unpacking") == 1
    assert len(found(run)) == 6
