"""Time limit, preemption and signals, on a real Slurm of virtual nodes with the toy program.

Cost: 75 s, of which 15 s are CPU time and the rest is waiting for Slurm; the real time limit is in `make soak`.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.running import LAUNCHER, TOY, User, user_of
from tests.faults.shims import put
from tests.support.rank_ends import exits_in
from tests.support.slurm.config import ClusterOptions
from tests.support.slurm.virtual_cluster import VirtualCluster, missing_programs, virtual_cluster, wait_until

pytestmark = pytest.mark.slurm

COMMON = ("small.py", "--nodes=1", f"--entrypoint={TOY}", "--no-check-config", "--json")
LONG = ("toy.iters=5000", "toy.seconds=0.05", "toy.save_every=100000")


@pytest.fixture(scope="module")
def cluster() -> Iterator[VirtualCluster]:
    """Four nodes; jobs of the partition `urgent` preempt those of `low`."""
    if (reason := missing_programs()) is not None:
        pytest.skip(reason)
    with virtual_cluster(ClusterOptions(gpus=0, grace_s=30, kill_wait_s=4)) as made:
        yield made


@pytest.fixture
def user(cluster: VirtualCluster, tmp_path: Path) -> Iterator[User]:
    yield user_of(tmp_path, cluster)
    cluster.cancel_all()


class Started:
    """A run in a batch job, training."""

    def __init__(self, user: User, cluster: VirtualCluster, *options: str) -> None:
        self.user, self.cluster = user, cluster
        answer = json.loads(user.run("submit", *COMMON, *LONG, *options).stdout)
        self.job, self.path = str(answer["job"]), Path(answer["run_dir"])
        wait_until(lambda: self.trains("000"), "the training to begin", cluster, 60)

    def attempt(self, name: str) -> Path:
        return self.path / "attempts" / name

    def trains(self, attempt: str) -> bool:
        return (self.attempt(attempt) / "metrics.jsonl").exists()

    def scontrol(self, *words: str) -> None:
        self.cluster.run("scontrol", "update", f"jobid={self.job}", *words)

    def signal(self, number: str, *options: str) -> None:
        self.cluster.run("scancel", *options, f"--signal={number}", self.job)

    def result(self, attempt: str = "000", timeout_s: float = 30) -> dict[str, Any]:
        """The verdict, once it is there."""
        path = self.attempt(attempt) / "result.json"
        wait_until(path.exists, "the verdict", self.cluster, timeout_s)
        return dict(json.loads(path.read_text()))

    def status(self) -> dict[str, Any]:
        (found,) = json.loads(self.user.run("status", str(self.path), "--json").stdout)["runs"]
        return dict(found)

    def saved(self) -> list[str]:
        return sorted(path.name for path in self.path.glob("checkpoints/iter_*"))

    def iteration(self) -> int:
        return len((self.attempt("000") / "metrics.jsonl").read_text().splitlines())

    def after_slurm_forgot(self) -> dict[str, Any]:
        """The status once the job has ended and Slurm, which has no accounting here, does not know it any more."""
        self.cluster.wait(self.job, "CANCELLED", "COMPLETED", "FAILED", "TIMEOUT")
        put(self.user, {"squeue": "#!/bin/bash\nexit 0\n"})
        return self.status()


def test_preempted_within_its_grace_time_it_saves_and_goes_on_in_the_same_job(
    user: User, cluster: VirtualCluster
) -> None:
    run = Started(user, cluster, "--partition=low", "--sbatch", "exclusive", "--nodelist=n1", "toy.save_seconds=2")
    urgent = cluster.submit("sleep 1", "--partition=urgent", "--exclusive", "--nodelist=n1")
    result = run.result()
    assert (result["outcome"], result["stopped_by"], result["reason"]) == ("stopped", "preempted", "preempted")
    assert run.saved()[0] == f"iter_{result['checkpoint']:07d}"
    notice = json.loads((run.attempt("000") / "notice.json").read_text())
    assert (notice["why"], 0 < notice["left_s"] <= 30) == ("preempted", True)
    wait_until(lambda: cluster.state(urgent) not in ("PENDING", "CONFIGURING"), "the urgent job", cluster, 20)
    wait_until(lambda: run.trains("001"), "the run to go on", cluster, 60)
    assert run.status()["job"] == run.job
    timeline = (run.attempt("001") / "timeline.jsonl").read_text()
    assert f'"event": "checkpoint_loaded", "seconds": 0.0, "iteration": {result["checkpoint"]}' in timeline


def test_the_end_of_a_job_that_moves(user: User, cluster: VirtualCluster) -> None:
    """Notices while the end is far do nothing; once it is near, the ranks save, and Slurm may forget the job."""
    run = Started(user, cluster, "--time=60")
    run.signal("USR1", "--batch")
    run.signal("USR1")
    run.signal("USR2", "--batch")
    run.signal("USR2")
    before = run.iteration()
    wait_until(lambda: run.iteration() > before + 20, "it to go on", cluster)
    assert not (run.attempt("000") / "stop").exists()
    run.scontrol("EndTime=now+3")
    run.signal("USR1", "--batch")  # as Slurm does within 30 s
    result = run.result()
    assert (result["outcome"], result["stopped_by"], result["reason"]) == ("stopped", "time limit", "time limit")
    assert run.saved() == [f"iter_{result['checkpoint']:07d}"]
    status = run.after_slurm_forgot()
    assert (status["phase"], status["stopped_by"], status["checkpoint"]) == (
        "stopped",
        "time limit",
        result["checkpoint"],
    )
    assert re.search(r"time limit .* `launcher submit --resume small/\S+` continues it", status["detail"])


def test_a_node_whose_clock_is_ahead_stops_no_run_early(user: User, cluster: VirtualCluster) -> None:
    """By its clock the job of ten minutes is over when it begins; the controller's answers carry the right time."""
    ahead = 'if [[ $* == +%s ]]; then echo "$(($(/usr/bin/date +%s) + 1200))"; else exec /usr/bin/date "$@"; fi'
    put(user, {"date": f"#!/bin/bash\n{ahead}\n"})
    run = Started(user, cluster, "--time=10")
    before = run.iteration()
    wait_until(lambda: run.iteration() > before + 40, "it to go on", cluster)
    assert not (run.attempt("000") / "stop").exists()
    run.scontrol("EndTime=now+3")
    run.signal("USR1", "--batch")
    assert run.result()["stopped_by"] == "time limit"


@pytest.mark.fault("signals of sites and users")
def test_a_users_own_notice_is_honoured(user: User, cluster: VirtualCluster) -> None:
    """It takes the place of the launcher's, for the script or for the ranks; its time counts."""
    script = Started(user, cluster, "--time=60", "--sbatch", "signal=B:USR2@90", "--name", "script")
    ranks = Started(user, cluster, "--time=60", "--sbatch", "signal=USR1@10", "--name", "ranks")
    for run in (script, ranks):
        assert "#SBATCH --signal=B:USR1@" not in (run.path / "sbatch.sh").read_text()
    script.scontrol("EndTime=now+3")
    script.signal("USR2", "--batch")
    ranks.scontrol("EndTime=now+28")
    ranks.signal("USR1")  # as Slurm does: to every task, and nothing to the script
    assert script.result()["stopped_by"] == "time limit"
    assert not (ranks.attempt("000") / "stop").exists(), "its script believes that the end is an hour away"
    ranks.signal("USR1", "--batch")
    assert ranks.result()["stopped_by"] == "time limit"
    assert 5 < json.loads((ranks.attempt("000") / "notice.json").read_text())["left_s"] <= 10


def test_a_cancelled_job_saves_nothing_unless_asked(user: User, cluster: VirtualCluster) -> None:
    run = Started(user, cluster, "--name", "plain")
    asked = Started(user, cluster, "--name", "asked", "toy.save_seconds=1")
    signalled = Started(user, cluster, "--name", "signalled")
    user.run("cancel", str(asked.path), "--checkpoint")
    user.run("cancel", str(run.path))
    signalled.signal("TERM")
    result = run.result()
    assert (result["outcome"], result["stopped_by"]) == ("stopped", "cancelled")
    assert asked.result()["stopped_by"] == "asked"
    assert signalled.result()["outcome"] == "failed"
    assert (run.after_slurm_forgot()["phase"], run.saved()) == ("cancelled", [])
    assert (asked.status()["phase"], len(asked.saved())) == ("stopped", 1)
    assert (signalled.status()["phase"], signalled.saved()) == ("failed", [])


def test_what_outlives_its_launcher_in_an_allocation(user: User, cluster: VirtualCluster) -> None:
    """sbatch.sh goes on there: status says so, a resume is refused, cancel ends it."""
    words = shlex.join([str(LAUNCHER), "run", *COMMON, *LONG])
    shell = f"{words} & echo $! >pid; wait; until [[ -e over ]]; do sleep 0.1; done"
    with subprocess.Popen(
        ["salloc", "-N1", "--ntasks-per-node=2", "bash", "-c", shell],
        cwd=user.directory,
        env=user.environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ):
        try:
            wait_until(
                lambda: bool(list(user.directory.glob("runs/*/*/attempts/000/metrics.jsonl"))), "it", cluster, 60
            )
            (run,) = user.runs()
            os.kill(int((user.directory / "pid").read_text()), signal.SIGKILL)

            def status() -> dict[str, Any]:
                return dict(json.loads(user.run("status", str(run), "--json").stdout)["runs"][0])

            wait_until(lambda: "its launcher has ended" in status()["detail"], "the launcher to end", cluster)
            assert status()["phase"] == "running"
            assert "the run is running" in user.run("run", "--resume", str(run), status=2).stderr
            user.run("cancel", str(run))
            assert status()["phase"] == "cancelled"
            result = json.loads((run / "attempts/000/result.json").read_text())
            assert (result["outcome"], result["stopped_by"]) == ("stopped", "cancelled"), "sbatch.sh writes its verdict"
        finally:
            (user.directory / "over").touch()


GATE = """#!/bin/bash
[[ ! -e {begun} ]] || { echo '# Avg bus bandwidth    : 5'; exit; }
touch {begun}
exec sleep 300
"""


@pytest.mark.parametrize(
    ("how", "why"), [("cancelled", "cancelled"), ("the script alone", "signal"), ("preempted", "preempted")]
)
def test_what_ends_a_job_while_a_gate_runs_is_its_verdict(
    user: User, cluster: VirtualCluster, how: str, why: str
) -> None:
    """No rank has started, and nothing is said against the network or a node; the next attempt trains."""
    begun, gate = user.directory / "begun", user.directory / "gate.sh"
    gate.write_text(GATE.replace("{begun}", str(begun)))
    gate.chmod(0o755)
    asked = json.dumps({"name": "slow", "command": [str(gate)], "tasks_per_node": 1, "limit_s": 290})
    options = {"sbatch": {"partition": "low", "exclusive": True}} if how == "preempted" else {}
    code = f"""
import json, launcher
run = launcher.submit("small.py", "toy.iters=60", "toy.seconds=0.01", entrypoint={TOY!r}, gates=[{asked!r}], nodes=1,
                      check_config=False, nodelist="n1", **{options!r})
print(json.dumps([str(run.directory), run.status().job]))"""
    path, job = json.loads(user.call([sys.executable, "-c", code]).stdout)
    attempt = Path(path) / "attempts/000"
    wait_until(begun.exists, "the gate", cluster, 60)
    if how == "preempted":
        cluster.submit("sleep 1", "--partition=urgent", "--exclusive", "--nodelist=n1")
    else:
        cluster.run("scancel", *(["--batch", "--signal=TERM"] if why == "signal" else []), str(job))
    wait_until((attempt / "result.json").exists, "the verdict", cluster, 30)
    result = json.loads((attempt / "result.json").read_text())
    assert (result["outcome"], result["stopped_by"], result["failure"]) == ("stopped", why, None)
    assert result["reason"] == f"{why}; no rank has left a record"
    assert not (attempt / "gates.json").exists()
    assert not list((attempt / "ranks").iterdir())
    if how == "preempted":
        wait_until((Path(path) / "attempts/001/result.json").exists, "the next attempt", cluster, 90)
        assert json.loads((Path(path) / "attempts/001/result.json").read_text())["outcome"] == "finished"


def test_what_ends_a_job_while_its_nodes_are_checked_is_its_verdict(user: User, cluster: VirtualCluster) -> None:
    begun = user.directory / "begun"
    slow = (
        f'#!/bin/bash\n[[ $* != *node_check* ]] || {{ touch {begun}; exec sleep 300; }}\nexec /usr/bin/timeout "$@"\n'
    )
    put(user, {"timeout": slow})
    answer = json.loads(user.run("submit", *COMMON, "--spares=1", *LONG).stdout)
    wait_until(begun.exists, "the check", cluster, 60)
    cluster.run("scancel", str(answer["job"]))
    attempt = Path(answer["run_dir"]) / "attempts/000"
    wait_until((attempt / "result.json").exists, "the verdict", cluster, 30)
    result = json.loads((attempt / "result.json").read_text())
    assert (result["outcome"], result["stopped_by"], result["failure"]) == ("stopped", "cancelled", None)
    assert not (attempt / "node_check.json").exists()


@pytest.mark.fault("no accounting")
def test_ranks_that_had_finished_when_the_job_was_ended(user: User, cluster: VirtualCluster) -> None:
    """The job can write no verdict, and Slurm forgets it: the ranks' records say the rest."""
    profile = user.directory / "clusters/virtual.toml"
    profile.write_text(profile.read_text() + 'launcher_python = "/does/not/exist"\n')
    run = Started(user, cluster, "toy.iters=60")
    run.signal("STOP", "--batch")  # the script gets no further before the end of its job
    wait_until(lambda: exits_in(run.attempt("000")) == [0, 1], "the ranks to finish", cluster)
    cluster.run("scancel", run.job)
    assert run.after_slurm_forgot()["phase"] == "finished"
    assert not (run.attempt("000") / "result.json").exists()


@pytest.mark.soak
def test_slurm_itself_ends_a_job_of_one_minute(user: User, cluster: VirtualCluster) -> None:
    """Nothing is sent by hand: the notice, a save of eight seconds, the next attempt. Cost: 80 s."""
    run = Started(user, cluster, "--time=1", "toy.save_seconds=8")
    began = (run.attempt("000") / "start").stat().st_mtime
    result = run.result(timeout_s=90)
    assert (result["stopped_by"], result["reason"]) == ("time limit", "time limit")
    assert 20 < result["ended"] - began < 60, "in the second half of the job's time, and before its end"
    user.run("submit", "--resume", str(run.path), "--time=1")
    wait_until(lambda: run.trains("001"), "the next attempt", cluster, 60)
    timeline = (run.attempt("001") / "timeline.jsonl").read_text()
    assert f'"iteration": {result["checkpoint"]}' in timeline


@pytest.mark.soak
def test_an_allocation_that_ends(user: User) -> None:
    """No signal comes to a step's script in an allocation; the end is looked up all the same. Cost: 50 s."""
    words = ("run", *COMMON, *LONG, "toy.save_seconds=5")
    done = user.salloc(*words, options=("-N1", "--ntasks-per-node=2", "--time=1"), status=1)
    result = json.loads(done.stdout)
    assert (result["outcome"], result["stopped_by"], result["reason"]) == ("stopped", "time limit", "time limit")


@pytest.mark.soak
def test_preempted_without_grace(new_cluster: Callable[..., VirtualCluster], tmp_path: Path) -> None:
    """What KillWait leaves is enough for a short save; Slurm itself requeues. Cost: 40 s."""
    cluster = new_cluster(nodes=1, gpus=0, grace_s=0, kill_wait_s=8)
    run = Started(user_of(tmp_path, cluster), cluster, "--partition=low", "--sbatch", "exclusive")
    cluster.submit("sleep 1", "--partition=urgent", "--exclusive")
    assert run.result()["stopped_by"] == "preempted"
    assert len(run.saved()) == 1
    wait_until(lambda: run.trains("001"), "the run to go on", cluster, 60)


@pytest.mark.soak
def test_a_job_that_reaches_its_limit_unprepared(user: User, cluster: VirtualCluster) -> None:
    """Case of a limit that comes at once: what KillWait leaves is used, and the verdict is written. Cost: 40 s."""
    run = Started(user, cluster, "--time=60", "--sbatch", "signal=B:USR1@1")
    run.scontrol("EndTime=now+2")
    result = run.result(timeout_s=90)
    assert (result["outcome"], result["stopped_by"], result["reason"]) == ("stopped", "time limit", "time limit")
    assert run.after_slurm_forgot()["phase"] == "stopped"
