"""Runs that keep going, on a real Slurm of virtual nodes with the toy: about 60 s on an idle machine."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.backends.running import PROFILE, TOY, User, user_of
from tests.faults.shims import put
from tests.support.fault_table import Faults
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until

COMMON = ("small.py", f"--entrypoint={TOY}", "--no-check-config", "--keep-going", "--json")
RETRY = "\n[retry]\nbackoff_s = 0\n"


@pytest.fixture
def user(slurm_cluster: VirtualCluster, tmp_path: Path) -> User:
    return impatient(tmp_path, slurm_cluster)


def impatient(directory: Path, cluster: VirtualCluster) -> User:
    """A user whose profile waits for nothing between attempts."""
    user = user_of(directory, cluster)
    (directory / "clusters/virtual.toml").write_text(PROFILE + RETRY)
    return user


def submit(user: User, *settings: str) -> tuple[Path, str]:
    """Submit a run that keeps going; return its directory and its job."""
    answer = json.loads(user.run("submit", *COMMON, *settings).stdout)
    return Path(answer["run_dir"]), answer["job"]


def decided(run: Path) -> list[str]:
    """What was decided after each attempt."""
    paths = sorted(run.glob("attempts/*/next.json"))
    return [json.loads(path.read_text())["action"] for path in paths]


def last(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(max(run.glob("attempts/*/next.json")).read_text())
    return found


def losses(run: Path) -> dict[int, float]:
    """The loss of each iteration: that of the last attempt that computed it."""
    found = {}
    for path in sorted(run.glob("attempts/*/metrics.jsonl")):
        for line in path.read_text().splitlines():
            found[json.loads(line)["iteration"]] = json.loads(line)["loss"]
    return found


def uninterrupted(run: Path) -> dict[int, float]:
    """The losses of the toy with the run's settings, from beginning to end without a fault; 0.2 s, without Slurm."""
    whole = run.with_name(f".{run.name}-whole")
    (whole / "attempts/000/ranks").mkdir(parents=True)
    request = json.loads((run / "argv.json").read_text())
    kept = [each for each in request["overrides"] if each["key"] in ("toy.iters", "toy.seed")]
    request["overrides"] = [*kept, {"key": "toy.seconds", "value": 0}]
    (whole / "argv.json").write_text(json.dumps(request))
    world = json.loads((run / "plan.json").read_text())["layout"]["world_size"]
    environ = {"RANK": "0", "WORLD_SIZE": str(world), "LOCAL_RANK": "0", "NODE_RANK": "0"}
    environ |= {"LAUNCHER_RUN_DIR": str(whole), "LAUNCHER_ATTEMPT": "000"}
    subprocess.run([sys.executable, TOY], env=environ, check=True, stdout=subprocess.DEVNULL, timeout=seconds(60))
    return losses(whole)


def status(user: User, run: Path) -> dict[str, Any]:
    (found,) = json.loads(user.run("status", str(run), "--json").stdout)["runs"]
    return dict(found)


def jobs(run: Path) -> list[str]:
    """The run's jobs, in the order in which the journal names them."""
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return list(dict.fromkeys(line["job"] for line in lines if line.get("job")))


def begun(run: Path, attempt: str) -> float:
    """When the first rank of an attempt began."""
    return float(json.loads((run / f"attempts/{attempt}/timeline.jsonl").read_text().splitlines()[0])["time"])


@pytest.mark.fault("rank crash")
def test_a_crash_is_requeued_and_the_losses_are_those_of_an_uninterrupted_run(
    user: User, slurm_cluster: VirtualCluster, faults: Faults
) -> None:
    """The job keeps its number, so a job that waits for it with afterok still does, and is held until the end."""
    shape = ("--nodes=1", "--gpus-per-node=1", "toy.iters=30", "toy.seconds=0.02")
    straight, _ = submit(user, *shape, "--name=straight")
    run, job = submit(
        user,
        *shape,
        "--name=crashes",
        "+toy.fail_rank=0",
        "+toy.fail_step=18",
        "toy.fail_how=kill",
        "+toy.bad_attempts=1",
    )
    after = slurm_cluster.submit("true", f"--dependency=afterok:{job}")
    wait_until((run / "attempts/000/next.json").exists, "the first verdict", slurm_cluster, 60)
    failed = time.time()
    wait_until((run / "attempts/001/metrics.jsonl").exists, "the second attempt", slurm_cluster, 60)
    # Slurm starts a requeued job no earlier than cred_expire, here 5 s, after its end.
    assert begun(run, "001") - failed < seconds(15)
    assert slurm_cluster.state(after) == "PENDING"
    assert slurm_cluster.wait(job, "COMPLETED", "FAILED") == "COMPLETED"
    assert slurm_cluster.wait(after, "COMPLETED", "FAILED") == "COMPLETED"
    assert (decided(run), jobs(run)) == (["requeue", "end"], [job])
    loaded = json.loads((run / "attempts/001/timeline.jsonl").read_text().splitlines()[2])["iteration"]
    assert loaded > 0, "the second attempt has continued"
    wait_until(lambda: status(user, straight)["over"], "the other run", slurm_cluster, 60)
    assert losses(run) == losses(straight) == uninterrupted(run)
    assert len(losses(run)) == 30
    seen = status(user, run)
    first = json.loads((run / "attempts/000/result.json").read_text())
    assert (seen["phase"], seen["attempts"]) == ("finished", 2)
    assert seen["lost_iterations"] == first["iteration"] - loaded
    assert [each["next"] for each in seen["history"]] == ["requeued", None]
    assert 0 < seen["goodput"] < 1
    assert "killed by signal 9" in seen["history"][0]["why"]
    faults.note_run("rank crash", run, lost=seen["lost_iterations"])


ENDS = {
    "wrong": (("+toy.fail_rank=0", "toy.fail_how=user"), ["end"], "the request is wrong", "failed"),
    "poisoned": (("+toy.fail_rank=0", "+toy.fail_step=7"), ["requeue", "end"], "poisoned", "failed"),
    "idle": (
        ("+toy.fail_rank=0", "toy.fail_how=kill", "+toy.fail_step=2"),
        ["requeue", "successor", "end"],
        "3 attempts in a row have saved nothing new",
        "failed",
    ),
    "nan-again": (("+toy.nan_from=12",), ["requeue", "end"], "a second time", "diverged"),
    "nan-once": (("+toy.nan_from=12", "+toy.bad_attempts=1"), ["requeue", "end"], "complete", "finished"),
}


@pytest.mark.fault("poisoned run")
def test_what_ends_and_what_diverges(user: User, slurm_cluster: VirtualCluster, faults: Faults) -> None:
    """A wrong request is never repeated, a poisoned one once, a run without progress three times, NaN once."""
    common = ("--nodes=1", "--gpus-per-node=1", "toy.iters=20", "toy.seconds=0.01", "toy.save_every=5")
    runs = {name: submit(user, *common, *case[0], f"--name={name}") for name, case in ENDS.items()}
    for name, (_, actions, reason, phase) in ENDS.items():
        run, _job = runs[name]
        wait_until(lambda run=run: decided(run)[-1:] == ["end"], f"the end of {name}", slurm_cluster, 90)  # type: ignore[misc]
        assert (decided(run), reason in last(run)["reason"]) == (actions, True), (name, last(run))
        wait_until(lambda run=run: status(user, run)["over"], f"the job of {name}", slurm_cluster, 30)  # type: ignore[misc]
        assert status(user, run)["phase"] == phase, name
    run, _job = runs["nan-once"]
    first = json.loads((run / "attempts/000/next.json").read_text())
    assert (first["kind"], first["ckpt_step"]) == ("diverged", 10)
    assert json.loads((run / "attempts/001/timeline.jsonl").read_text().splitlines()[2])["iteration"] == 10
    assert not list((run / "set-aside").iterdir()), "what was set aside is saved again"
    assert status(user, run)["lost_iterations"] == 10
    assert losses(run) == uninterrupted(run), "nothing of the bad state is left"
    faults.note_run("poisoned run", runs["poisoned"][0], attempt="001")


def test_a_cancelled_run_stays_cancelled(user: User, slurm_cluster: VirtualCluster) -> None:
    """By the launcher, and by somebody's scancel."""
    one, first = submit(user, "--nodes=1", "toy.iters=5000", "toy.seconds=0.05", "--name=one")
    two, second = submit(user, "--nodes=1", "toy.iters=5000", "toy.seconds=0.05", "--name=two")
    for run in (one, two):
        wait_until((run / "attempts/000/metrics.jsonl").exists, "the training to begin", slurm_cluster, 60)
    user.run("cancel", str(one))
    slurm_cluster.run("scancel", second)
    for run, job in ((one, first), (two, second)):
        slurm_cluster.wait(job, "CANCELLED", "COMPLETED", "FAILED")
        assert "requeue" not in decided(run)
    assert slurm_cluster.run("squeue", "-h", "-o", "%i").stdout.split() == []


def test_a_job_that_may_not_be_requeued_gets_a_successor(user: User, slurm_cluster: VirtualCluster) -> None:
    log = user.directory / "variables.log"
    names = f"compgen -e | grep -E '^(SLURM|SBATCH|SRUN)_' | tr '\\n' ' ' >>{log}; echo >>{log}"
    put(user, {"sbatch": f'#!/bin/bash\n{names}\nexec /usr/bin/sbatch "$@"\n'})
    settings = (
        "--nodes=1",
        "toy.iters=20",
        "toy.seconds=0.01",
        "+toy.fail_rank=0",
        "+toy.fail_step=12",
        "+toy.bad_attempts=1",
    )
    run, job = submit(user, *settings, "--sbatch", "no-requeue", "--env", "SEEN=yes")
    wait_until(lambda: len(jobs(run)) == 2, "a successor", slurm_cluster, 60)
    assert slurm_cluster.wait(job, "COMPLETED", "FAILED") == "FAILED"
    successor = jobs(run)[-1]
    assert slurm_cluster.wait(successor, "COMPLETED", "FAILED") == "COMPLETED"
    assert (status(user, run)["phase"], status(user, run)["job"]) == ("finished", successor)
    tokens = [(run / f"attempts/{name}/start").read_text().split()[0] for name in ("000", "001")]
    assert len(set(tokens)) == 2
    shown = slurm_cluster.run("scontrol", "show", "job", successor).stdout
    assert tokens[1] in shown
    environment = json.loads((run / "attempts/001/ranks/0000.seen.json").read_text())["environment"]
    assert environment["SLURM_JOB_ID"] == successor
    assert environment["SEEN"] == "yes"
    assert [line.split() for line in log.read_text().splitlines()] == [["SLURM_CONF"], ["SLURM_CONF"]]


@pytest.mark.fault("bad node")
def test_a_node_that_kills_ranks_is_excluded_by_a_successor(
    user: User, slurm_cluster: VirtualCluster, faults: Faults
) -> None:
    """Slurm takes the first idle nodes, so it would give the job the same one again."""
    (user.directory / "lemon").write_text("n1\n")
    run, _job = submit(
        user, "--nodes=2", "toy.iters=30", "toy.seconds=0.01", "toy.save_every=4", f"+toy.lemon={user.directory}/lemon"
    )
    wait_until(lambda: "successor" in decided(run), "the node to be excluded", slurm_cluster, 90)
    assert decided(run) == ["requeue", "successor"]
    assert last(run)["exclude"] == ["n1"]
    wait_until(lambda: len(jobs(run)) == 2, "a successor", slurm_cluster, 60)
    successor = jobs(run)[-1]
    assert slurm_cluster.wait(successor, "COMPLETED", "FAILED", timeout_s=90) == "COMPLETED"
    assert "n1" not in (run / "attempts/002/nodes").read_text().split()
    assert (decided(run), len(losses(run))) == (["requeue", "successor", "end"], 30)
    assert losses(run) == uninterrupted(run)
    faults.note_run("bad node", run, attempt="001", lost=status(user, run)["lost_iterations"])


@pytest.mark.fault("node crash")
def test_a_node_failure(new_cluster: Callable[..., VirtualCluster], tmp_path: Path, faults: Faults) -> None:
    """The node of the batch script: Slurm requeues the job, the next start judges, and the run ends on other nodes."""
    cluster = new_cluster(nodes=3, node_timeout_s=5)
    user = impatient(tmp_path, cluster)
    run, job = submit(user, "--nodes=2", "toy.iters=60", "toy.seconds=0.15", "toy.save_every=5")
    metrics = run / "attempts/000/metrics.jsonl"
    wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 12, "the training", cluster, 60)
    cluster.fail("n1")
    # Slurm itself takes about 25 s to say so.
    cluster.run("scontrol", "update", "nodename=n1", "state=down", "reason=lost")
    wait_until((run / "attempts/001/metrics.jsonl").exists, "the second attempt", cluster, 90)
    first = json.loads((run / "attempts/000/next.json").read_text())
    assert (first["kind"], first["action"]) == ("machine", "requeue")
    assert cluster.wait(job, "COMPLETED", "FAILED", timeout_s=60) == "COMPLETED"
    assert losses(run) == uninterrupted(run)
    assert sorted(losses(run)) == list(range(1, 61))
    seen = status(user, run)
    assert [each["kind"] for each in seen["history"]] == ["machine", "finished"]
    faults.note_run("node crash", run, lost=seen["lost_iterations"])


def test_jobs_are_queued_behind_a_running_one_by_hand(user: User, slurm_cluster: VirtualCluster) -> None:
    """Without --keep-going. Each takes the lease once the one before has ended; after a finish nothing is done."""
    settings = ("small.py", f"--entrypoint={TOY}", "--no-check-config", "--json", "--nodes=1", "toy.iters=12")
    first = json.loads(
        user.run(
            "submit", *settings, "+toy.fail_rank=0", "+toy.fail_step=8", "toy.fail_how=hang", "+toy.bad_attempts=1"
        ).stdout
    )
    run, one = Path(first["run_dir"]), first["job"]
    wait_until((run / "attempts/000/metrics.jsonl").exists, "the training to begin", slurm_cluster, 60)
    assert "is running" in user.run("submit", "--resume", str(run), status=2).stderr
    before = (run / "plan.json").read_bytes()
    refused = user.run("submit", "--resume", str(run), "--attempts=2", "toy.iters=99", status=2)
    assert "cannot change it" in refused.stderr
    queued = json.loads(user.run("submit", "--resume", str(run), "--attempts=2", "--json").stdout)
    two, (three,) = queued["job"], queued["successors"]
    assert (run / "plan.json").read_bytes() == before
    seen = status(user, run)
    assert (seen["phase"], seen["job"]) == ("running", one)
    slurm_cluster.run("scancel", one)
    wait_until(lambda: status(user, run)["job"] == two, "the second job to be the run's", slurm_cluster, 30)
    assert slurm_cluster.wait(two, "FAILED", "COMPLETED") == "COMPLETED"
    assert slurm_cluster.wait(three, "FAILED", "COMPLETED") == "COMPLETED"
    assert [path.name for path in sorted((run / "attempts").iterdir())] == ["000", "001"], "the third has nothing to do"
    seen = status(user, run)
    assert (seen["phase"], [each["next"] for each in seen["history"]]) == ("finished", ["resumed", None])
    assert len({(run / f"attempts/{name}/start").read_text().split()[0] for name in ("000", "001")}) == 2


def test_cancelling_ends_the_jobs_behind_too(user: User, slurm_cluster: VirtualCluster) -> None:
    settings = ("small.py", f"--entrypoint={TOY}", "--no-check-config", "--json", "--nodes=1", "--attempts=3")
    made = json.loads(user.run("submit", *settings, "toy.iters=5000", "toy.seconds=0.05").stdout)
    jobs_of_run = [made["job"], *made["successors"]]
    assert len(jobs_of_run) == 3
    wait_until(lambda: status(user, Path(made["run_dir"]))["phase"] == "running", "the run", slurm_cluster, 60)
    user.run("cancel", made["run_dir"])
    for job in jobs_of_run:
        slurm_cluster.wait(job, "CANCELLED", "COMPLETED", "FAILED")
    assert status(user, Path(made["run_dir"]))["over"]
    assert "--attempts" in user.run("run", *settings, "--cluster=local", status=2).stderr


@pytest.mark.fault("time limit", "preemption")
def test_time_limit_and_preemption(new_cluster: Callable[..., VirtualCluster], tmp_path: Path, faults: Faults) -> None:
    """Both save, both go on in the same job, and neither counts as an attempt without progress."""
    cluster = new_cluster(gpus=0, grace_s=30, kill_wait_s=4)
    user = impatient(tmp_path, cluster)
    options = (
        "--nodes=1",
        "--gpus-per-node=1",
        "--time=60",
        "--partition=low",
        "--nodelist=n1",
        "--sbatch",
        "exclusive",
    )
    run, job = submit(user, *options, "toy.iters=240", "toy.seconds=0.05", "toy.save_every=100000")
    wait_until((run / "attempts/000/metrics.jsonl").exists, "the training to begin", cluster, 60)
    cluster.run("scontrol", "update", f"jobid={job}", "EndTime=now+3")
    cluster.run("scancel", "--batch", "--signal=USR1", job)  # as Slurm does within 30 s
    wait_until((run / "attempts/000/next.json").exists, "the decision", cluster, 30)
    cluster.run("scontrol", "update", f"jobid={job}", "TimeLimit=60")  # Slurm has shortened it
    wait_until((run / "attempts/001/metrics.jsonl").exists, "the second attempt", cluster, 60)
    cluster.submit("sleep 1", "--partition=urgent", "--exclusive", "--nodelist=n1")
    assert cluster.wait(job, "COMPLETED", "FAILED", timeout_s=90) == "COMPLETED"
    seen = status(user, run)
    assert [each["kind"] for each in seen["history"]] == ["time limit", "preempted", "finished"]
    assert (seen["phase"], seen["lost_iterations"], jobs(run)) == ("finished", 0, [job])
    assert losses(run) == uninterrupted(run)
    assert sorted(losses(run)) == list(range(1, 241))
    faults.note_run("time limit", run, lost=0)
    faults.note_run("preemption", run, attempt="001", lost=0)


def test_a_requeue_by_slurm_itself_does_what_was_decided(
    new_cluster: Callable[..., VirtualCluster], tmp_path: Path
) -> None:
    """A node of two runs is lost, and Slurm requeues both jobs: one has a successor now, the other one has ended."""
    cluster = new_cluster(nodes=4, node_timeout_s=5)
    user = impatient(tmp_path, cluster)
    (tmp_path / "clusters/strict.toml").write_text(PROFILE + RETRY + "strikes = 1\n")
    (tmp_path / "clusters/short.toml").write_text(PROFILE + RETRY + "without_progress = 1\n")
    shape = ("--nodes=2", "--gpus-per-node=1", "toy.iters=80", "toy.seconds=0.1")
    strict, one = submit(user, *shape, "--cluster=strict", "--name=strict", "toy.save_every=5")
    short, two = submit(user, *shape, "--cluster=short", "--name=short", "toy.save_every=1000")
    for run in (strict, short):
        metrics = run / "attempts/000/metrics.jsonl"
        wait_until(lambda path=metrics: path.exists() and len(path.read_text().splitlines()) > 12, "it", cluster, 60)  # type: ignore[misc]
        assert (run / "attempts/000/nodes").read_text().split() == ["n1", "n2"]
    cluster.fail("n2")
    cluster.run("scontrol", "update", "nodename=n2", "state=down", "reason=lost")
    wait_until(lambda: len(jobs(strict)) == 2, "a successor", cluster, 90)
    assert (decided(strict), last(strict)["exclude"]) == (["successor"], ["n2"])
    assert cluster.wait(one, "FAILED", "COMPLETED") == "FAILED"
    assert cluster.wait(jobs(strict)[-1], "FAILED", "COMPLETED", timeout_s=60) == "COMPLETED"
    seen = status(user, strict)
    assert (seen["phase"], [each["next"] for each in seen["history"]]) == ("finished", ["successor", None])
    assert losses(strict) == uninterrupted(strict)
    assert sorted(losses(strict)) == list(range(1, 81))
    assert cluster.wait(two, "FAILED", "COMPLETED", timeout_s=60) == "FAILED"
    assert (decided(short), jobs(short), last(short)["kind"]) == (["end"], [two], "machine")
    assert "attempt 000 has ended this run" in (short / "sbatch.log").read_text()
    assert [path.name for path in sorted((strict / "attempts").iterdir())] == ["000", "001"]
    assert [path.name for path in (short / "attempts").iterdir()] == ["000"]
    assert status(user, short)["phase"] == "failed"


ASKS = """#!/bin/bash
touch {here}/asked
until [[ -e {here}/paused ]]; do sleep 0.1; done
/usr/bin/sbatch "$@"
status=$?
touch {here}/answered
exit $status
"""


def test_a_successor_whose_sbatch_timed_out_is_found_and_goes_on(
    new_cluster: Callable[..., VirtualCluster], tmp_path: Path
) -> None:
    """The controller is frozen while the job asks; sbatch gives up, and the controller queues the job all the same."""
    cluster = new_cluster(nodes=1, message_timeout_s=3)
    user = impatient(tmp_path, cluster)
    put(user, {"sbatch": '#!/bin/bash\nexec /usr/bin/sbatch "$@"\n'})
    crash = ("+toy.fail_rank=0", "+toy.fail_step=12", "+toy.bad_attempts=1", "toy.fail_how=kill")
    run, job = submit(user, "--nodes=1", "toy.iters=20", "toy.seconds=0.05", *crash, "--sbatch", "no-requeue")
    put(user, {"sbatch": ASKS.format(here=tmp_path)})
    wait_until((tmp_path / "asked").exists, "the job to ask for a successor", cluster, 60)
    cluster.pause_controller()
    (tmp_path / "paused").touch()
    wait_until((tmp_path / "answered").exists, "sbatch to give up", cluster, 60)
    cluster.resume_controller()
    events = [json.loads(line)["event"] for line in (run / "journal.jsonl").read_text().splitlines()]
    wait_until(lambda: status(user, run)["job"] not in (None, job), "the successor to be found", cluster, 30)
    wait_until(lambda: status(user, run)["over"], "its end", cluster, 60)
    seen = status(user, run)
    assert (seen["phase"], [each["next"] for each in seen["history"]]) == ("finished", ["successor", None]), events
    scripts = cluster.run("squeue", "-h", "--states=all", "-o", "%o").stdout.splitlines()
    assert len([line for line in scripts if str(run) in line]) == 2, "one successor, however often it was asked for"
    events = [json.loads(line)["event"] for line in (run / "journal.jsonl").read_text().splitlines()]
    assert "submit_unknown" in events
    assert (len(losses(run)), losses(run)) == (20, uninterrupted(run))
