"""The causes of failures that lie on the disk, on a real Slurm of virtual nodes: about 8 s on an idle machine."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.backends.running import TOY, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster

FOLLOWED = ("--nodes", "1", "--entrypoint", TOY, "--follow")
WATCHDOG = """
import os, signal, sys, time
from pathlib import Path
rank = int(os.environ["RANK"])
attempt = Path(os.environ["LAUNCHER_RUN_DIR"]) / "attempts" / os.environ["LAUNCHER_ATTEMPT"]
if rank == 1:
    print("waiting for the data set's index file", flush=True)
    time.sleep(60)
print(f"[rank{rank}]:[E1125 10:00:00.0 ProcessGroupNCCL.cpp:684] [Rank {rank}] Watchdog caught collective operation"
      " timeout: WorkNCCL(SeqNum=42, OpType=ALLREDUCE, NumelIn=1, Timeout(ms)=600000) ran for 600013 milliseconds"
      " before timing out.", file=sys.stderr, flush=True)
(attempt / f"reported-{rank}").touch()
deadline = time.monotonic() + 30
while len(list(attempt.glob("reported-*"))) < 3 and time.monotonic() < deadline:
    time.sleep(0.1)  # all watchdogs report before srun ends the ranks
os.abort()
"""


@pytest.fixture
def user(tmp_path: Path, slurm_cluster: VirtualCluster) -> User:
    return user_of(tmp_path, slurm_cluster)


@pytest.mark.skipif(shutil.which("mksquashfs") is None, reason="needs mksquashfs: apt-get install squashfs-tools")
def test_a_runtime_that_srun_does_not_know_is_refused_before_queueing(user: User, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    subprocess.run(["mksquashfs", "root", "x.sqsh", "-quiet", "-no-progress"], cwd=tmp_path, check=True)
    done = user.run("submit", "small.py", *FOLLOWED, "--runtime", "pyxis", "--image", "./x.sqsh", status=2)
    assert "the runtime pyxis cannot start a container here: srun knows no --container-image" in done.stderr
    assert "--runtime enroot, bwrap" in done.stderr
    assert user.runs() == []


@pytest.mark.fault("container does not start")
def test_a_step_that_is_refused_says_why(user: User) -> None:
    done = user.run("submit", "small.py", *FOLLOWED, "--srun-arg=--mpi=pmix_v9", "--name", "bad", status=None)
    assert done.returncode != 0
    assert "pmix_v9" in done.stderr
    assert "cause: step not started" in done.stderr
    assert "what to do: " in done.stderr
    (status,) = json.loads(user.run("status", "bad", "--json").stdout)["runs"]
    assert status["phase"] == "failed"
    assert "pmix_v9" in status["detail"]
    result = json.loads((user.runs()[-1] / "attempts/000/result.json").read_text())
    assert (result["failure"], result["evidence"]["rule"]) == ("step not started", "step refused")


@pytest.mark.fault("a lost peer and the real cause")
def test_of_a_hang_the_rank_that_did_not_come_is_named(user: User, tmp_path: Path) -> None:
    program = tmp_path / "watchdog.py"
    program.write_text(WATCHDOG)
    options = ("--nodes", "2", "--entrypoint", str(program), "--follow", "--name", "wd")
    done = user.run("submit", "small.py", *options, status=None)
    assert "first failing rank: 1 on n1: did not come to ALLREDUCE" in done.stderr
    result = json.loads((user.runs()[-1] / "attempts/000/result.json").read_text())
    assert (result["failure"], result["evidence"]["ranks"]) == ("hang", [1])
