"""A run has one owner at a time, and a submission one job. Cost: about 25 s on the shared cluster."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.backends.running import LAUNCHER, TOY, User, user_of
from tests.faults.shims import put
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until

COMMON = ("small.py", "--nodes=1", "--gpus-per-node=2", f"--entrypoint={TOY}", "--no-check-config")
LONG = ("toy.iters=5000", "toy.seconds=0.05")


@pytest.fixture
def user(slurm_cluster: VirtualCluster, tmp_path: Path) -> User:
    return user_of(tmp_path, slurm_cluster)


def status(user: User, run: Path) -> dict[str, Any]:
    (found,) = json.loads(user.run("status", str(run), "--json").stdout)["runs"]
    return dict(found)


def stopped_run(user: User, cluster: VirtualCluster) -> Path:
    """A run that has ended with a checkpoint."""
    user.run("submit", *COMMON, "toy.iters=3", "toy.save_every=1", "toy.seconds=0.01")
    run = user.runs()[-1]
    wait_until(lambda: status(user, run)["over"], "the run to end", cluster, 30)
    return run


def states(cluster: VirtualCluster, run: Path) -> dict[str, str]:
    """The state of each job of the run, ended ones included."""
    lines = cluster.run("squeue", "-h", "--states=all", "-o", "%i|%T|%o").stdout.splitlines()
    return {line.split("|")[0]: line.split("|")[1] for line in lines if str(run) in line}


def events(run: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


@pytest.mark.fault("four resumes at once")
def test_four_resumes_at_once_are_one_job(user: User, slurm_cluster: VirtualCluster) -> None:
    run = stopped_run(user, slurm_cluster)
    before = set(states(slurm_cluster, run))
    argv = [str(LAUNCHER), "submit", "--resume", str(run), *LONG]

    def resume(_number: int) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(argv, cwd=user.directory, env=user.environ, capture_output=True, text=True, timeout=120)

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(resume, range(4)))
    assert sorted(each.returncode for each in done) == [0, 2, 2, 2], [each.stderr for each in done]
    (job,) = set(states(slurm_cluster, run)) - before
    wait_until(lambda: status(user, run)["phase"] == "running", "the run to run", slurm_cluster, 30)
    assert status(user, run)["job"] == job
    user.run("submit", "--resume", str(run), status=2)
    user.run("cancel", str(run))
    slurm_cluster.wait(job, "CANCELLED", "COMPLETED", "FAILED")


def test_the_jobs_that_lose_fail_and_the_run_stays_the_owners(user: User, slurm_cluster: VirtualCluster) -> None:
    """Two more jobs of the same submission, and one of another: as where no lock holds between two machines."""
    user.run("submit", *COMMON, *LONG)
    run = user.runs()[-1]
    wait_until(lambda: status(user, run)["phase"] == "running", "the run to run", slurm_cluster, 30)
    (owner,) = states(slurm_cluster, run)
    lease = json.loads((run / "lease").read_text())
    assert (lease["job_id"], lease["attempt"], lease["cluster"]) == (owner, "000", "virtual")
    other = run.parent / "other.sh"
    other.write_text((run / "sbatch.sh").read_text().replace(lease["nonce"], "launcher:another"))
    late = [
        slurm_cluster.run("sbatch", "--parsable", str(script), cwd=run).stdout.strip()
        for script in (run / "sbatch.sh", run / "sbatch.sh", other)
    ]
    journal = run / "journal.jsonl"
    with journal.open("a") as file:
        file.write(json.dumps({"time": 9e9, "event": "submitted", "token": "launcher:another", "job": late[-1]}) + "\n")
    for job in late:
        assert slurm_cluster.wait(job, "FAILED", "COMPLETED") == "FAILED"
    assert [event["owner_job"] for event in events(run, "not_owner")] == [owner] * 3
    assert f"job {owner} owns this run" in (run / "sbatch.log").read_text()
    assert [path.name for path in (run / "attempts").iterdir()] == ["000"]
    assert (status(user, run)["job"], status(user, run)["phase"]) == (owner, "running")
    user.run("cancel", str(run))
    slurm_cluster.wait(owner, "CANCELLED", "COMPLETED", "FAILED")


@pytest.mark.fault("requeue by an administrator")
def test_a_requeued_job_keeps_its_run_and_a_dead_owners_lease_is_taken(
    user: User, slurm_cluster: VirtualCluster
) -> None:
    user.run("submit", *COMMON, *LONG)
    run = user.runs()[-1]
    wait_until(lambda: (run / "attempts/000/metrics.jsonl").exists(), "the run to run", slurm_cluster, 30)
    (job,) = states(slurm_cluster, run)
    slurm_cluster.run("scontrol", "requeue", job)
    wait_until(lambda: (run / "attempts/001/metrics.jsonl").exists(), "the second attempt", slurm_cluster, 60)
    assert json.loads((run / "lease").read_text())["attempt"] == "001"
    for words, phase in (("suspend", "suspended"), ("resume", "running")):
        slurm_cluster.run("scontrol", words, job)
        wait_until(lambda phase=phase: status(user, run)["phase"] == phase, phase, slurm_cluster, 30)  # type: ignore[misc]
    assert len(list((run / "attempts").iterdir())) == 2, "the same attempt goes on"
    # Killed without a word, as by a node that has lost its power: the lease stays.
    left = (run / "lease").read_text()
    user.run("cancel", str(run))
    slurm_cluster.wait(job, "CANCELLED", "COMPLETED", "FAILED")
    (run / "lease").write_text(left)
    (run / "checkpoints/iter_0000001").mkdir(parents=True, exist_ok=True)
    (run / "attempts/001/result.json").unlink(missing_ok=True)
    user.run("submit", "--resume", str(run), "toy.iters=8000")
    wait_until(lambda: (run / "attempts/002/metrics.jsonl").exists(), "the third attempt", slurm_cluster, 60)
    assert status(user, run)["job"] != job


@pytest.mark.fault("I/O error after sbatch")
def test_a_journal_that_takes_no_more_does_not_take_the_job_with_it(user: User, slurm_cluster: VirtualCluster) -> None:
    """The disk is full when sbatch has answered: the run's directory stays, and the message names the job."""
    full = '#!/bin/bash\nanswer=$(/usr/bin/sbatch "$@") || exit\n'
    full += 'run=$(dirname "${@: -2:1}"); mv "$run/journal.jsonl" "$run/kept"; ln -s /dev/full "$run/journal.jsonl"\n'
    shims = put(user, {"sbatch": full + 'echo "$answer"\n'})
    done = user.run("submit", *COMMON, *LONG, status=3)
    run = user.runs()[-1]
    (job,) = states(slurm_cluster, run)
    assert f"job {job} is queued" in done.stderr
    (shims / "sbatch").unlink()
    (run / "journal.jsonl").unlink()
    (run / "kept").rename(run / "journal.jsonl")
    assert status(user, run)["job"] == job, "found by the token of the intent"
    user.run("cancel", str(run))
    slurm_cluster.wait(job, "CANCELLED", "COMPLETED", "FAILED")


def test_an_unanswered_resume_does_not_take_the_cancelled_job_before_for_its_own(
    user: User, slurm_cluster: VirtualCluster
) -> None:
    run = stopped_run(user, slurm_cluster)
    user.run("submit", "--resume", str(run), "toy.iters=9", "--sbatch", "hold")
    (cancelled,) = [job for job, state in states(slurm_cluster, run).items() if state == "PENDING"]
    user.run("cancel", str(run))
    slurm_cluster.wait(cancelled, "CANCELLED")
    words = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    put(user, {"sbatch": f"#!/bin/bash\necho '{words}' >&2\nexit 1\n"})
    done = user.run("submit", "--resume", str(run), "toy.iters=9", status=3, timeout_s=180)
    assert "does not have the job" in done.stderr
    assert cancelled not in done.stdout


FULL = """
set -e
mount -t tmpfs -o size=256k none "$1"
cp -r "$2/." "$1"
dd if=/dev/zero of="$1/filler" bs=1k 2>/dev/null || true
set +e
bash "$1/sbatch.sh"; echo "first $?"
rm "$1/filler"
: >"$1/lease"
bash "$1/sbatch.sh"; echo "second $?"
ls "$1" "$1/attempts"
"""


@pytest.mark.fault("full disk", "full disk at the claim")
def test_a_full_disk_fails_the_job_and_a_requeue_runs(tmp_path: Path) -> None:
    """An empty lease, which a full disk may leave, owns nothing. Needs mount namespaces; no Slurm."""
    from launcher.scripts import scripts
    from tests.support.building import plan

    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces")
    run, start, tools = tmp_path / "run", tmp_path / "start", tmp_path / "bin"
    for path in (run, start, tools):
        path.mkdir()
    made = plan("batch")
    text = scripts(made)["sbatch.sh"].replace(made.run_dir, str(run))
    (start / "sbatch.sh").write_text(text)
    (tools / "scontrol").write_text("#!/bin/bash\n[[ $2 == hostnames ]] && echo n1 || echo NodeAddr=127.0.0.1\n")
    (tools / "srun").write_text("#!/bin/bash\n[[ $* != *result.py* ]] || echo finished\n")
    for path in tools.iterdir():
        path.chmod(0o755)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", FULL, "-", str(run), str(start)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "first 3" in done.stdout, done
    assert "disk full" in done.stderr
    assert "second 0" in done.stdout, done
    assert done.stdout.splitlines()[-1] == "000"
