"""Sweeps on a real Slurm: arrays, identity of their tasks, interruptions. Cost: about 40 s."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.backends.running import User
from tests.faults.forks import Launchers, launchers
from tests.faults.shims import put
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until
from tests.sweep.sweeping import (
    attempts_begun,
    by_step,
    counted,
    log_calls,
    status,
    sweep_user,
    tasks,
    wait_for_end,
    write_sweep,
)


@pytest.fixture
def user(slurm_cluster: VirtualCluster, tmp_path: Path) -> User:
    return sweep_user(tmp_path, slurm_cluster)


@pytest.fixture
def forks(user: User) -> Iterator[Launchers]:
    with launchers(user) as server:
        yield server


def test_two_hundred_points_take_at_most_five_calls(user: User, slurm_cluster: VirtualCluster) -> None:
    log = log_calls(user)
    file = write_sweep(user, 200, run="sbatch = {hold = true}")
    user.run("sweep", file, "--max-parallel", "4")
    calls = log.read_text().splitlines()
    assert len(calls) <= 5, calls
    (array,) = {name.partition("_")[0] for name in tasks(slurm_cluster, user)}
    assert tasks(slurm_cluster, user) == {f"{array}_{index}": 1 for index in range(200)}
    shown = slurm_cluster.run("scontrol", "show", "job", array).stdout
    assert "ArrayTaskThrottle=4" in shown
    log.unlink()
    found = status(user)
    assert found["counts"] == {"queued": 200}
    assert len(log.read_text().splitlines()) <= 5
    log.unlink()
    user.run("sweep", file)
    assert "sbatch" not in log.read_text(), "nothing is submitted twice"
    # One copy of the code for all runs.
    inodes = {path.stat().st_ino for path in user.directory.glob("runs/many/*/code/launcher/job/train.py")}
    assert len(inodes) == 1


def test_points_are_runs_whose_job_is_a_task(user: User, slurm_cluster: VirtualCluster) -> None:
    file = write_sweep(user, 6)
    told = user.run("sweep", file, "--follow", "--json", status=1)
    found = json.loads(told.stdout)
    assert found["counts"] == {"finished": 5, "failed": 1}
    assert "ValueError: asked to fail" in told.stderr
    trials = by_step(found)
    assert trials[3]["state"] == "failed"
    assert trials[101]["metrics"]["step_time_s"] >= 0.01
    assert found["best"]["verdict"] == "single"
    runs = user.runs()
    assert counted(user) == {run.name: 1 for run in runs}
    for run in runs:
        events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
        first = {each["event"]: each for each in reversed(events)}
        intent, submitted = first["submit_intent"], first["submitted"]
        assert submitted["job"].endswith(f"_{intent['index']}")
        (lease,) = run.glob("lease.*.ended")
        assert json.loads(lease.read_text())["job_id"] == submitted["job"]
        assert intent["token"] in lease.name
    best = user.run("sweep", "best", "runs/many", status=1).stdout
    assert "points were run once" in best
    page = user.directory / "runs/many/sweep/page.html"
    assert str(page) in user.run("sweep", "report", "runs/many").stderr
    assert "asked to fail" in page.read_text()
    shown = json.loads(user.run("status", "--json", "--limit", "9").stdout)["runs"]
    assert {run["job_proven"] for run in shown} == {True}
    assert {run["job"].partition("_")[1] for run in shown} == {"_"}


_LIMITED = """#!/bin/bash
# As the controller does for MaxSubmitJobs of an association: an array counts with all of its tasks.
tasks=1
for word in "$@"; do [[ ! $word =~ ^--array=0-([0-9]+) ]] || tasks=$((BASH_REMATCH[1] + 1)); done
held=$(/usr/bin/squeue -h -r -o %o | grep -cF "{directory}/runs/")
if ((held + tasks > {most})); then
    echo "$tasks beside $held" >>{directory}/refused
    echo "sbatch: error: AssocMaxSubmitJobLimit" >&2
    echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2
    exit 1
fi
exec /usr/bin/sbatch "$@"
"""


def test_follow_submits_as_many_as_an_association_may_and_the_others_later(
    user: User, slurm_cluster: VirtualCluster
) -> None:
    put(user, {"sbatch": _LIMITED.format(directory=user.directory, most=3)})
    told = user.run("sweep", write_sweep(user, 6), "--follow", "--json", status=1, timeout_s=120)
    assert json.loads(told.stdout)["counts"] == {"finished": 5, "failed": 1}
    assert "3 runs wait: Slurm takes no more than 3 jobs of yours now" in told.stderr
    # Six at once were refused; the others were submitted when these had ended, and Slurm was not asked in vain.
    assert (user.directory / "refused").read_text() == "6 beside 0\n"
    assert counted(user) == {run.name: 1 for run in user.runs()}
    assert len({name.partition("_")[0] for name in tasks(slurm_cluster, user)}) == 2


def test_a_task_is_cancelled_alone_although_its_number_is_the_arrays(user: User, slurm_cluster: VirtualCluster) -> None:
    file = write_sweep(user, 3, name="slow")
    text = (user.directory / file).read_text().replace("toy.seconds=0.01", "toy.seconds=30")
    (user.directory / file).write_text(text)
    user.run("sweep", file)
    runs = sorted((user.directory / "runs/slow").glob("[0-9a-f]*/"))

    def running() -> dict[str, str]:
        lines = slurm_cluster.run("squeue", "-h", "-r", "-t", "R", "-o", "%i %A %o").stdout.splitlines()
        return {line.split()[0]: line.split()[1] for line in lines if str(user.directory) in line}

    wait_until(lambda: len(running()) == 3, "three tasks to run", slurm_cluster)
    numbers = running()
    ((last, array),) = [(task, number) for task, number in numbers.items() if task.partition("_")[0] == number]
    assert last.startswith(f"{array}_")
    wait_until(lambda: all((run / "lease").exists() for run in runs), "leases", slurm_cluster)
    jobs = {json.loads((run / "lease").read_text())["job_id"]: run for run in runs}
    assert set(jobs) == set(numbers)
    # scancel with the plain number would end all three.
    assert last in user.run("cancel", str(jobs[last])).stderr
    slurm_cluster.wait(last, "CANCELLED")
    assert set(running()) == set(numbers) - {last}
    found = {trial["runs"][0]: trial["state"] for trial in status(user, "slow")["trials"]}
    assert found[str(jobs[last])] == "cancelled"
    assert Counter(found.values()) == {"running": 2, "cancelled": 1}


def test_a_requeued_task_and_a_held_one(user: User, slurm_cluster: VirtualCluster) -> None:
    file = write_sweep(user, 5, head="max_parallel = 1")
    text = (user.directory / file).read_text().replace("toy.seconds=0.01", "toy.seconds=0.4")
    (user.directory / file).write_text(text)
    user.run("sweep", file)
    (array,) = {name.partition("_")[0] for name in tasks(slurm_cluster, user)}
    slurm_cluster.run("scontrol", "hold", f"{array}_4")
    wait_until(lambda: sum(counted(user).values()) == 2, "the second point", slurm_cluster)
    slurm_cluster.run("scontrol", "requeue", f"{array}_1")
    told = user.run("sweep", file, "--follow", status=None, timeout_s=180)
    found = by_step(status(user))
    assert {step: trial["state"] for step, trial in found.items()} == {
        3: "failed",
        101: "finished",
        102: "finished",
        103: "finished",
        104: "queued",
    }, told.stderr
    assert "JobHeld" in found[104]["reason"]
    assert sum(counted(user).values()) == 5, "one of the points has begun twice"
    slurm_cluster.run("scontrol", "release", f"{array}_4")
    user.run("sweep", file, "--follow", status=1)
    assert by_step(status(user))[104]["state"] == "finished"


def kills(user: User, cluster: VirtualCluster, forks: Launchers, points: int, seeds: int) -> None:
    """Kill submissions of sweeps at random moments; each ends with every point exactly once."""
    draw = random.Random(os.environ.get("TEST_SEED", "sweep"))  # noqa: S311
    began = time.monotonic()
    forks.run("sweep", write_sweep(user, points, name="reference"))
    longest_s = time.monotonic() - began
    names = [f"killed{number}" for number in range(seeds)]
    for name in names:
        file = write_sweep(user, points, name=name)
        for _ in range(draw.choice((1, 1, 2, 3))):
            tried = forks.start("sweep", file)
            time.sleep(draw.uniform(0, longest_s))
            tried.kill()
            tried.wait()
        forks.run("sweep", file)
    wait_for_end(cluster, user, 30 + seeds * points)
    runs = [run for run in user.runs() if run.parent.name != "counted"]
    assert Counter(run.parent.name for run in runs) == dict.fromkeys(["reference", *names], points)
    assert counted(user) == {run.name: 1 for run in runs}
    reference = status(user, "reference")
    expected = [(each["point"], each["state"], each["values"]) for each in reference["trials"]]
    assert Counter(state for _, state, _ in expected) == {"finished": points - 1, "failed": 1}
    for name in names:
        found = status(user, name)["trials"]
        assert [(each["point"], each["state"], each["values"]) for each in found] == expected, name
        assert {round(each["metrics"].get("loss", 0), 9) for each in found} == {
            round(each["metrics"].get("loss", 0), 9) for each in reference["trials"]
        }


def test_submissions_killed_at_random_moments(user: User, slurm_cluster: VirtualCluster, forks: Launchers) -> None:
    kills(user, slurm_cluster, forks, points=4, seeds=4)


@pytest.mark.soak
@pytest.mark.timeout(5400)
def test_many_submissions_killed_at_random_moments(user: User, slurm_cluster: VirtualCluster, forks: Launchers) -> None:
    kills(user, slurm_cluster, forks, points=10, seeds=20)


@pytest.mark.soak
@pytest.mark.timeout(5400)
def test_two_hundred_points_with_kills_a_failure_a_preemption_and_a_held_one(
    new_cluster: Callable[..., VirtualCluster], tmp_path: Path
) -> None:
    cluster = new_cluster(nodes=2, grace_s=0)
    user = sweep_user(tmp_path, cluster)
    file = write_sweep(user, 200, head="max_parallel = 6", run='partition = "low"')
    draw = random.Random(os.environ.get("TEST_SEED", "many"))  # noqa: S311
    with launchers(user) as forks:
        for _ in range(6):
            tried = forks.start("sweep", file)
            time.sleep(draw.uniform(0, 6))
            tried.kill()
            tried.wait()
        forks.run("sweep", file)
        (array,) = {name.partition("_")[0] for name in tasks(cluster, user)}
        cluster.run("scontrol", "hold", f"{array}_199")
        wait_until(lambda: len(counted(user)) >= 5, "the first points", cluster, 120)
        # A whole node for a job of more weight: the tasks on it are preempted, and begin again.
        urgent = cluster.run(
            "sbatch", "--parsable", "-o", "/dev/null", "-p", "urgent", "-w", "n1", "--exclusive", "--wrap", "sleep 1"
        ).stdout
        wait_until(lambda: max(counted(user).values()) > 1, "a preempted point to begin again", cluster, 240)
        cluster.wait(urgent.strip(), "COMPLETED", timeout_s=120)
        wait_until(lambda: len(counted(user)) == 199, "all points but the held one", cluster, 3000)
        user.run("sweep", file, "--follow", status=0, timeout_s=600)
        assert status(user)["counts"] == {"finished": 198, "failed": 1, "queued": 1}
        cluster.run("scontrol", "release", f"{array}_199")
        user.run("sweep", file, "--follow", status=1, timeout_s=600)
    found = status(user)
    assert found["counts"] == {"finished": 199, "failed": 1}
    # Each attempt has begun once; one that was preempted may have ended before its program could say what it was given.
    begun = attempts_begun(user)
    assert set(begun.values()) == {1}
    for trial in found["trials"]:
        run = Path(trial["runs"][0])
        seen = {(run.name, path.parts[-3]) for path in run.glob("attempts/[0-9]*/ranks/0000.seen.json")}
        mine = {each for each in begun if each[0] == run.name}
        assert seen <= mine <= {(run.name, path.name) for path in run.glob("attempts/[0-9]*")}, run
        assert max(mine) in seen, run
    assert Counter(counted(user).values())[1] >= 190


@pytest.mark.soak
def test_an_agent_chooses_and_stops_points(user: User) -> None:
    (user.directory / "agent.toml").write_text(
        'strategy = "agent"\ntrials = 8\nmax_parallel = 3\nwarmup_steps = 1\n'
        '[agent]\nsampler = "random"\npruner = "median"\nmin_steps = 2\n'
        '[run]\nrecipe = "small.py"\nnodes = 1\ngpus_per_node = 1\nentrypoint = "count.py"\ncheck_config = false\n'
        'assignments = ["toy.iters=12"]\n[axes.overrides]\n"toy.seconds" = {low = 0.02, high = 1.5}\n'
    )
    found = json.loads(user.run("sweep", "agent.toml", "--follow", "--json", timeout_s=280).stdout)
    assert set(found["counts"]) == {"finished", "pruned"}
    stopped = [trial for trial in found["trials"] if trial["state"] == "pruned"]
    slowest = max(found["trials"], key=lambda trial: float(trial["values"]["toy.seconds"]))
    assert slowest["number"] <= 3 or slowest in stopped, "the first three are what others are compared with"
    for trial in stopped:
        (run,) = trial["runs"]
        assert len((Path(run) / "attempts/000/metrics.jsonl").read_text().splitlines()) < 12
