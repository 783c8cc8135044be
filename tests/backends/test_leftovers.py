"""What cancelled and requeued jobs leave on a node is removed before the next image is unpacked there.

The decision with a stand-in for squeue; then each runtime on a real Slurm: bwrap costs about 10 s.
"""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.backends.containers import (
    ENROOT_PATHS,
    SCRATCH,
    contained,
    logs,
    missing,
    result,
    wrapped_enroot,
)
from tests.backends.running import TOY
from tests.backends.test_containers_faults import OURS, entered, plan_of, trees
from tests.backends.tiny import tiny_image
from tests.support.limits import seconds
from tests.support.slurm import virtual_cluster
from tests.support.slurm.machine import SEARCH_PATH
from tests.support.slurm.virtual_cluster import VirtualCluster

pytestmark = [pytest.mark.timeout(300), pytest.mark.skipif(missing("bwrap") is not None, reason=str(missing("bwrap")))]


@pytest.fixture(scope="module")
def tiny(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_image(debian, tmp_path_factory.mktemp("tiny") / "tiny.sqsh")


def squeue(directory: Path, answers: Mapping[str, str], *, silent: bool = False) -> None:
    """A squeue that knows these jobs' states. Like the real one it complains of a job that is asked for alone."""
    shows = [f'[[ ,$jobs, != *,{job},* ]] || echo "{job} {state}"' for job, state in answers.items() if state]
    known = " ".join(answers) or "-"
    lines = [
        "#!/bin/bash",
        f'echo "$*" >>"{directory}/asked"',
        *(["echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2", "exit 1"] if silent else []),
        'for word in "$@"; do [[ $word != --jobs=* ]] || jobs=${word#--jobs=}; done',
        f'[[ $jobs == *,* || " {known} " == *" $jobs "* ]] || {{',
        "    echo 'slurm_load_jobs error: Invalid job id specified' >&2",
        "    exit 1",
        "}",
        *shows,
        "exit 0",
    ]
    (directory / "bin").mkdir()
    (directory / "bin/squeue").write_text("\n".join([*lines, ""]))
    (directory / "bin/squeue").chmod(0o755)


def leave(directory: Path, name: str, *, age_s: float = 0, partial: bool = False) -> None:
    base = directory / f"scratch/launcher-{os.geteuid()}"
    (base / f"{name}.partial" if partial else base / name).mkdir(parents=True)
    lock = base / f"{name}.lock"
    lock.touch()
    os.utime(lock, (time.time() - age_s,) * 2)


def test_only_what_is_known_to_have_ended_is_removed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue(tmp_path, {"11": "", "12": "RUNNING", "13": "PENDING", "14": "COMPLETING", "15": "SUSPENDED"})
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    plan = plan_of(tiny, tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    other = "launcher-abcabcabcabc-fedcba"
    for job in range(11, 18):  # 17 is one that the controller has forgotten
        leave(tmp_path, f"{other}-{job}-000-n1", partial=job == 17)
    leave(tmp_path, f"{other}-1-000-n1")  # another run in this very job
    leave(tmp_path, "launcher-of-somebody-n1")
    leave(tmp_path, f"{other}-local-000-n1")
    leave(tmp_path, f"{other}-18-000-n1", age_s=3600)
    assert entered(plan, "true")[0] == 0
    kept = {name for name in trees(tmp_path) if not name.startswith(OURS)}
    assert kept == {
        *(f"{other}-{job}-000-n1" for job in (1, 12, 13, 15)),
        "launcher-of-somebody-n1",
        f"{other}-local-000-n1",
    }
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert "--jobs=11,12,13,14,15,16,17 " in asked, "once; what has been idle for ten minutes needs no answer"


def test_without_an_answer_only_what_is_idle_for_long_is_removed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue(tmp_path, {}, silent=True)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    plan = plan_of(tiny, tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    other = "launcher-abcabcabcabc-fedcba"
    for job in (11, 12):
        leave(tmp_path, f"{other}-{job}-000-n1")
    leave(tmp_path, f"{other}-13-000-n1", age_s=3600)
    assert entered(plan, "true")[0] == 0
    assert {name for name in trees(tmp_path) if not name.startswith(OURS)} == {
        f"{other}-{job}-000-n1" for job in (11, 12)
    }


def test_a_process_inside_keeps_the_container_whatever_slurm_says(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue(tmp_path, {})
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    name = "launcher-abcabcabcabc-fedcba-17-000-n1"
    leave(tmp_path, name)
    with (tmp_path / f"scratch/launcher-{os.geteuid()}/{name}.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert entered(plan_of(tiny, tmp_path), "true")[0] == 0
    assert name in trees(tmp_path)


@pytest.mark.parametrize(("attempt", "kept"), [("000", True), ("003", False), ("010", True), ("012", True)])
def test_an_earlier_attempt_of_a_requeued_job_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempt: str, kept: bool
) -> None:
    squeue(tmp_path, {"1": "RUNNING"})
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    plan = plan_of(tiny, tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    label = OURS.rpartition("-")[0] if attempt != "000" else "launcher-012345678901-fedcba-1"
    leave(tmp_path, f"{label}-{attempt}-elsewhere")
    assert entered(plan, "true", name=f"{OURS.rpartition('-')[0]}-008")[0] == 0
    assert (f"{label}-{attempt}-elsewhere" in trees(tmp_path)) is kept


@pytest.mark.parametrize("runtime", ["bwrap", "enroot"])
def test_a_cancelled_job_leaves_nothing_to_the_next(
    slurm_cluster: VirtualCluster, image_file: Path, tmp_path: Path, runtime: str
) -> None:
    if reason := missing(runtime):
        pytest.skip(reason)
    cancelled_then_again(slurm_cluster, image_file, tmp_path, runtime)


@pytest.mark.parametrize("runtime", ["bwrap", "enroot"])
def test_a_disk_with_space_for_one_image_is_enough(
    new_cluster: Callable[..., VirtualCluster], image_file: Path, tmp_path: Path, runtime: str
) -> None:
    if reason := missing(runtime):
        pytest.skip(reason)
    cluster = new_cluster(nodes=1)
    needed = small_disk(cluster, SCRATCH, image_file)

    def is_full() -> None:
        assert free(cluster, SCRATCH) < needed, "the cancelled job has left nothing"

    cancelled_then_again(cluster, image_file, tmp_path, runtime, is_full)


@pytest.mark.parametrize("scope", ["job", "global"])
def test_nor_does_it_under_pyxis(
    new_cluster: Callable[..., VirtualCluster],
    image_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scope: str,
) -> None:
    """On such a disk; containers of the scope `job` pyxis removes at the job's end, those of `global` stay."""
    if reason := missing("pyxis"):
        pytest.skip(reason)
    if scope == "job" and shutil.which("enroot", path="/usr/bin:/bin") is None:
        pytest.skip("needs enroot in /usr/bin: in the epilog of a job pyxis has no PATH, and the node is drained")
    monkeypatch.setattr(virtual_cluster, "SEARCH_PATH", f"{wrapped_enroot(tmp_path / 'bin')}:{SEARCH_PATH}")
    cluster = new_cluster(nodes=1, pyxis=Path(f"{os.environ['PYXIS']} container_scope={scope}"))
    needed = small_disk(cluster, ENROOT_PATHS["DATA"], image_file)

    def is_full() -> None:
        assert scope == "job" or free(cluster, ENROOT_PATHS["DATA"]) < needed, "the cancelled job has left nothing"

    cancelled_then_again(cluster, image_file, tmp_path, "pyxis", is_full)


def small_disk(cluster: VirtualCluster, place: str, image: Path) -> int:
    """Mount a file system at a place of node n1 that holds the image once and not twice; the bytes of the image."""
    listed = subprocess.run(["unsquashfs", "-lln", str(image)], capture_output=True, text=True, check=True).stdout
    needed = sum(-(-int(line.split()[2]) // 4096) * 4096 for line in listed.splitlines() if line.startswith("-"))
    mount = f"mkdir -p {place} && mount -t tmpfs -o size={needed * 8 // 5} small {place}"
    done = cluster.run("srun", "--nodelist=n1", "bash", "-c", mount, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted on a virtual node here: {done.stderr.strip()}")
    return needed


def free(cluster: VirtualCluster, place: str) -> int:
    """Free bytes at a place of node n1."""
    return int(cluster.run("srun", "--nodelist=n1", "df", "--output=avail", "-B1", place).stdout.split()[1])


def cancelled_then_again(
    cluster: VirtualCluster, image: Path, directory: Path, runtime: str, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Kill a job in its container, and run another one on the same node at once."""
    user = contained(directory, runtime, image, cluster)
    asked = user.arguments("--cluster", "here", "--nodelist", "n1", "toy.iters=600", "toy.seconds=0.1", program=TOY)
    first = json.loads(user.user.run("submit", *asked, "--name", "first").stdout)
    run = Path(first["run_dir"])
    deadline = time.monotonic() + seconds(60)
    while not (run / "attempts/000/metrics.jsonl").exists():
        assert time.monotonic() < deadline, logs(run)
        time.sleep(0.05)
    cluster.run("scancel", first["job"])
    meanwhile()
    again = user.submit("--nodelist", "n1", "--name", "again")
    assert result(again)["outcome"] == "finished"
    # As the node sees it: a file system that is mounted there is not seen from outside.
    find = f"find {SCRATCH} {ENROOT_PATHS['DATA']} -maxdepth 3 -name '*-{first['job']}-*'; echo looked"
    assert cluster.run("srun", "--nodelist=n1", "bash", "-c", find).stdout == "looked\n"
