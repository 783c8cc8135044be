"""The virtual cluster itself: it is a real Slurm, it breaks as one does, and it leaves nothing behind."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.limits import seconds
from tests.support.slurm import machine
from tests.support.slurm.config import ClusterOptions
from tests.support.slurm.virtual_cluster import (
    ClusterError,
    VirtualCluster,
    client_environment,
    missing_programs,
    virtual_cluster,
    wait_until,
)

NewCluster = Callable[..., VirtualCluster]
ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(missing_programs() is not None, reason=missing_programs() or ""),
]
both_ways = pytest.mark.parametrize("namespaces", [None, False], ids=["namespaces", "plain"])


def processes_of(directory: Path) -> list[str]:
    """Command lines of every process that has to do with the cluster in `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            marks = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0] if marks else ""
        except OSError:
            continue
        if str(directory).encode() in marks and state != "Z" and int(entry.name) != os.getpid():
            found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """A path for a cluster, short enough for its sockets."""
    directory = Path(tempfile.mkdtemp(prefix="slurm-test-", dir="/tmp"))
    yield directory
    with contextlib.suppress(ClusterError):
        VirtualCluster.attach(directory).down()
    shutil.rmtree(directory, ignore_errors=True)


def test_four_nodes_with_eight_slots_and_gpus(slurm_cluster: VirtualCluster) -> None:
    show = 'echo "$SLURM_PROCID $SLURM_LOCALID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"'
    lines = slurm_cluster.run(
        "srun", "-N4", "--ntasks-per-node=8", "--gpus-per-node=8", "bash", "-c", show
    ).stdout.splitlines()
    expected = [f"{rank} {rank % 8} n{rank // 8 + 1} 0,1,2,3,4,5,6,7" for rank in range(32)]
    assert sorted(lines, key=lambda line: int(line.split()[0])) == expected


def test_nine_gpus_of_eight_are_refused(slurm_cluster: VirtualCluster) -> None:
    answer = slurm_cluster.run("srun", "--gpus-per-node=9", "true", check=False)
    assert answer.returncode != 0
    assert "Requested node configuration is not available" in answer.stderr


def test_nodes_know_each_other_by_name(slurm_cluster: VirtualCluster) -> None:
    if not slurm_cluster.namespaces:
        pytest.skip("nodes have no /etc/hosts of their own here")
    lines = slurm_cluster.run(
        "srun", "-N4", "bash", "-c", "hostname; getent ahostsv4 n2 | head -1 | cut -d' ' -f1"
    ).stdout.split()
    assert sorted(lines) == sorted([*slurm_cluster.options.names, *[slurm_cluster.address("n2")] * 4])


def test_a_batch_job_runs_to_its_end(slurm_cluster: VirtualCluster) -> None:
    job = slurm_cluster.submit("srun -n 8 echo from the job", "-N1", "--ntasks-per-node=8")
    assert slurm_cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED"
    assert slurm_cluster.output(job).split("\n") == [*["from the job"] * 8, ""]


@both_ways
def test_it_is_quick(namespaces: bool | None, place: Path) -> None:
    times = []
    for _ in range(3):
        begin = time.monotonic()
        cluster = VirtualCluster.up(place, ClusterOptions(namespaces=namespaces))
        times.append(time.monotonic() - begin)
        cluster.down()
    # About 0.4 s on an idle machine with two cores; the limit is for a busy one.
    assert min(times) < 3, times


@both_ways
def test_nothing_is_left_even_with_running_jobs(namespaces: bool | None, place: Path) -> None:
    cluster = VirtualCluster.up(place, ClusterOptions(nodes=2, namespaces=namespaces))
    cluster.submit("srun -N2 --ntasks-per-node=2 bash -c 'setsid sleep 600 & sleep 601'", "-N2", "--ntasks-per-node=2")
    client = subprocess.Popen(["srun", "-N1", "sleep", "602"], env=cluster.environment, stderr=subprocess.DEVNULL)
    wait_until(
        lambda: len(cluster.run("squeue", "-h", "-t", "R", "-o", "%i").stdout.split()) == 2, "both jobs", cluster
    )
    assert processes_of(place)
    cluster.down()
    assert client.wait(timeout=seconds(10)) != 0
    assert processes_of(place) == []
    assert not place.exists()
    cluster.down()  # a second time is harmless


@both_ways
def test_it_ends_with_a_process_that_is_killed_hard(namespaces: bool | None, place: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from tests.support.slurm.config import ClusterOptions
from tests.support.slurm.virtual_cluster import VirtualCluster
cluster = VirtualCluster.up(Path({str(place)!r}), ClusterOptions(nodes=2, namespaces={namespaces}))
cluster.submit("srun -n2 sleep 600", "-n2")
print("up", flush=True)
time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    owner.kill()
    owner.communicate()
    deadline = time.monotonic() + seconds(10)
    while (processes_of(place) or place.exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(place) == []
    assert not place.exists()


def test_the_keeper_takes_all_along_when_it_is_killed(place: Path) -> None:
    cluster = VirtualCluster.up(place, ClusterOptions(nodes=2))
    if not cluster.namespaces:
        cluster.down()
        pytest.skip("only a PID namespace can promise that")
    cluster.submit("sleep 600")
    os.kill(int((place / "run" / "keeper.pid").read_text().split()[0]), signal.SIGKILL)
    deadline = time.monotonic() + seconds(10)
    while processes_of(place) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(place) == []
    cluster.down()
    assert not place.exists()


def test_clusters_side_by_side_do_not_see_each_other(new_cluster: NewCluster) -> None:
    one, two = new_cluster(nodes=1), new_cluster(nodes=2, slots=2, gpus=0)
    job = one.submit("sleep 600")
    assert one.run("squeue", "-h", "-o", "%i").stdout.split() == [job]
    assert two.run("squeue", "-h", "-o", "%i").stdout == ""
    assert two.run("sinfo", "-h", "-p", "batch", "-o", "%D %c %G").stdout.split() == ["2", "2", "(null)"]
    one.down()
    assert two.run("srun", "-N2", "true").returncode == 0


@both_ways
def test_a_failed_node_ends_all_that_ran_on_it(namespaces: bool | None, new_cluster: NewCluster, place: Path) -> None:
    cluster = new_cluster(nodes=2, namespaces=namespaces, node_timeout_s=2)
    beat = place / "beat"
    cluster.submit(f"while :; do date +%s.%N >{beat}; sleep 0.05; done", "-w", "n2", "--no-requeue")
    wait_until(beat.exists, "the job", cluster)
    cluster.fail("n2")
    last = beat.read_text()
    time.sleep(0.3)
    assert beat.read_text() == last, "the job still runs"
    assert cluster.run("srun", "-w", "n1", "true").returncode == 0
    with pytest.raises(ClusterError, match="n2 is not running"):
        cluster.fail("n2")
    # An administrator's word is quicker than Slurm's own timeout.
    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    cluster.start("n2")
    cluster.wait_idle()


def test_a_controller_that_stops_and_comes_back_knows_its_jobs(new_cluster: NewCluster) -> None:
    cluster = new_cluster(nodes=1, message_timeout_s=2)
    job = cluster.submit("sleep 600")
    cluster.wait(job, "RUNNING")
    cluster.pause_controller()
    begin = time.monotonic()
    answer = cluster.run("squeue", "-h", check=False)
    assert answer.returncode != 0
    assert "Socket timed out" in answer.stderr
    assert time.monotonic() - begin < 8
    cluster.resume_controller()
    assert cluster.state(job) == "RUNNING"
    cluster.stop_controller()
    assert cluster.run("squeue", "-h", check=False).returncode != 0
    cluster.start_controller()
    wait_until(
        lambda: cluster.run("squeue", "-h", "-o", "%i %T", check=False).stdout == f"{job} RUNNING\n", "the job", cluster
    )


def test_by_hand(place: Path) -> None:
    command = [sys.executable, "-m", "tests.support.slurm.virtual_cluster"]

    def do(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *argv], cwd=ROOT, capture_output=True, text=True, timeout=seconds(60), check=False
        )

    assert do("up", str(place), "--nodes=2", "--gpus=1").returncode == 0
    environment = do("env", str(place)).stdout.strip()
    shown = subprocess.run(
        ["bash", "-c", f"{environment}; srun -N2 --gpus-per-node=1 hostname"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(shown.stdout.split()) == 2
    assert do("fail", str(place), "n1").returncode == 0
    assert do("node", str(place), "n1").returncode == 0
    refused = do("fail", str(place), "n9")
    assert (refused.returncode, "this cluster has n1, n2" in refused.stderr) == (1, True)
    assert do("up", str(place)).returncode == 1
    assert do("down", str(place)).returncode == 0
    assert processes_of(place) == []
    assert do("env", str(place)).returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
@both_ways
def test_as_an_ordinary_user(namespaces: bool | None, place: Path) -> None:
    user = pwd.getpwnam("nobody")
    # The user may not enter the checkout or the interpreter of the tests.
    candidates = [
        path
        for name in ("python3", "python3.11", "python3.12", "python3.13")
        if (path := shutil.which(name, path="/usr/bin:/usr/local/bin"))
    ]
    if not candidates or shutil.which("setpriv") is None:
        pytest.skip("no system Python, or no setpriv")
    shutil.copytree(
        ROOT / "tests" / "support",
        place / "code" / "tests" / "support",
        ignore=shutil.ignore_patterns("test_*", "__pycache__"),
    )
    home = place / "home"
    home.mkdir()
    for owned in (place, home):
        os.chown(owned, user.pw_uid, user.pw_gid)
    place.chmod(0o755)
    program = f"""
from pathlib import Path
from tests.support.slurm.config import ClusterOptions
from tests.support.slurm.virtual_cluster import VirtualCluster
cluster = VirtualCluster.up(Path({str(place / "c")!r}), ClusterOptions(namespaces={namespaces}))
print(cluster.run("srun", "-N4", "--ntasks-per-node=2", "--gpus-per-node=2", "id", "-u").stdout.split())
cluster.submit("srun sleep 600")
cluster.down()
print(Path({str(place / "c")!r}).exists())
"""
    lower = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [*lower, candidates[0], "-c", program]
    shown = subprocess.run(
        argv, cwd=place / "code", env=environment, capture_output=True, text=True, timeout=seconds(60), check=False
    )
    assert shown.stderr == ""
    assert shown.stdout.splitlines() == [str([str(user.pw_uid)] * 8), "False"]
    assert processes_of(place / "c") == []


def test_wrong_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="too long"):
        VirtualCluster.up(tmp_path / ("x" * 100))
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match=r"is not empty|too long"):
        VirtualCluster.up(tmp_path)
    with pytest.raises(ValueError, match="1 to"):
        ClusterOptions(nodes=0)


def test_a_cluster_that_does_not_start_says_why_and_is_gone(place: Path) -> None:
    with pytest.raises(ClusterError, match=r"slurmctld[\s\S]*NoSuchOption"):
        VirtualCluster.up(place, ClusterOptions(nodes=1, extra=("NoSuchOption=1",), start_timeout_s=2))
    assert processes_of(place) == []
    assert not place.exists()


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SEARCH_PATH", "/nonexistent")
    assert "slurmctld" in (missing_programs() or "")


def test_clients_do_not_inherit_an_outer_allocation() -> None:
    given = {"PATH": "/bin", "SLURM_JOB_ID": "7", "SBATCH_PARTITION": "x", "SLURM_CONF": "/etc/slurm.conf"}
    assert client_environment(Path("/c/slurm.conf"), given) == {"PATH": "/bin", "SLURM_CONF": "/c/slurm.conf"}


def test_two_clusters_never_share_ports() -> None:
    with virtual_cluster(ClusterOptions(nodes=1)) as cluster:
        port = int((cluster.conf.read_text().split("SlurmctldPort=")[1]).split()[0])
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port - 1))
