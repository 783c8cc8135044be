"""Commands and Slurm's own actions on one run in any order, also at once and killed: one owner, no step computed wrong.

A walk draws from TEST_SEED what happens next: resumes, successors, cancels, requeues, scancels, removals of
checkpoints, killed launchers. Whatever it was, attempts never overlap, a cancel ends all jobs, and a last resume
completes the training with the losses of an uninterrupted run. Cost: 40 s for a walk.
"""

import json
import os
import random
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.backends.running import PROFILE, TOY, User, user_of
from tests.faults.forks import Forked, Launchers, launchers
from tests.faults.test_next_attempt import RETRY, losses, status, uninterrupted
from tests.faults.test_once import left_over
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until

COMMON = ("small.py", f"--entrypoint={TOY}", "--no-check-config", "--json", "--nodes=1", "--gpus-per-node=1")
SETTINGS = ("toy.iters=800", "toy.seconds=0.05", "+toy.save_every=10")
LIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED")
KILLED_WITHIN_S = 0.5


@pytest.fixture
def user(slurm_cluster: VirtualCluster, tmp_path: Path) -> User:
    user = user_of(tmp_path, slurm_cluster)
    (tmp_path / "clusters/virtual.toml").write_text(PROFILE + RETRY)
    return user


@pytest.fixture
def forks(user: User) -> Iterator[Launchers]:
    with launchers(user) as server:
        yield server


class Walk:
    """One run, and what happens to it."""

    def __init__(self, user: User, cluster: VirtualCluster, forks: Launchers, seed: str) -> None:
        self.user, self.cluster, self.forks = user, cluster, forks
        self.draw = random.Random(seed)  # noqa: S311
        self.started: list[tuple[str, Forked]] = []
        self.log: list[str] = []
        going = ("--keep-going",) if self.draw.random() < 0.5 else ()
        crash = ("+toy.fail_rank=0", f"+toy.fail_step={self.draw.randrange(20, 60)}", "+toy.bad_attempts=2")
        first = forks.run("submit", *COMMON, *SETTINGS, *going, *(crash if going else ()))
        self.run = Path(json.loads(first.text[first.text.index("{") :])["run_dir"])
        saved = self.run / "checkpoints/latest_checkpointed_iteration.txt"
        wait_until(saved.exists, "something to continue from", cluster, 60)

    def jobs(self) -> dict[str, str]:
        """The run's jobs with their states, by the script that Slurm has for each job."""
        lines = self.cluster.run("squeue", "-h", "--states=all", "-o", "%i|%T|%o").stdout.splitlines()
        mine = [line.split("|") for line in lines if f"|{self.run}/" in line]
        return {job: state for job, state, _ in mine}

    def live(self) -> list[str]:
        return [job for job, state in self.jobs().items() if state in LIVE]

    def launcher(self, *arguments: str) -> None:
        """Start a command, and perhaps kill it."""
        self.started.append((arguments[0], self.forks.start(*arguments)))
        if self.draw.random() < 0.25:
            time.sleep(self.draw.uniform(0, KILLED_WITHIN_S))
            self.started[-1][1].kill()

    def slurm(self, *words: str) -> None:
        if jobs := self.live():
            self.cluster.run(*words, self.draw.choice(jobs), check=False)

    def step(self) -> None:
        """Do one of the things that may happen."""
        run = str(self.run)
        resume, cancel = ("submit", "--resume", run), ("cancel", run)
        commands: dict[str, tuple[tuple[str, ...], ...]] = {
            "resume": (resume,),
            "resume once": ((*resume, f"--once={self.draw.randrange(4)}"),),
            "two resumes": (resume, resume),
            "successors": ((*resume, "--attempts=2"),),
            "cancel": (cancel,),
            "cancel and resume": (cancel, resume),
            "stop": ((*cancel, "--checkpoint"),),
            "gc": (("gc", run, "--keep-last=1", "--yes"),),
            "status": (("status", run),),
        }
        of_slurm = {
            "requeue": ("scontrol", "requeue"),
            "scancel": ("scancel",),
            "signal": ("scancel", "--signal=TERM"),
        }
        name = self.draw.choice([*commands, *of_slurm, *["resume"] * 4, *["requeue"] * 2])
        self.log.append(f"{time.time():.1f} {name} {self.jobs()}")
        for arguments in commands.get(name, ()):
            self.launcher(*arguments)
        if name in of_slurm:
            self.slurm(*of_slurm[name])

    def settle(self) -> None:
        """Wait for the commands that were started; none may fail in a way that is not its own."""
        while self.started:
            name, command = self.started.pop()
            found = command.wait()
            assert found in (0, 1, 2, 3, 137), (name, command.text)
            assert "Traceback" not in command.text and "internal error" not in command.text, command.text

    def intervals(self) -> list[tuple[float, float, str]]:
        """From when to when each attempt has trained, by the lines that its rank 0 has written."""
        found = []
        for path in sorted(self.run.glob("attempts/*/metrics.jsonl")):
            times = [json.loads(line)["time"] for line in path.read_text().splitlines()]
            found.append((times[0], times[-1], path.parent.name))
        return sorted(found)


def walk(user: User, cluster: VirtualCluster, forks: Launchers, seed: str, seconds: float) -> None:
    """Let things happen for some time; then cancel, and complete the training."""
    it = Walk(user, cluster, forks, seed)
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            it.step()
            time.sleep(it.draw.choice((0.1, 0.3, 1.0, 3.0)))
            if len(it.started) > 6:
                it.settle()
        it.settle()
        for _ in range(3):  # a job that began meanwhile is ended by the next one
            forks.run("cancel", str(it.run), status=None)
            time.sleep(1)
        wait_until(lambda: not it.live(), "all jobs to end", cluster, 60)
        assert status(user, it.run)["over"], status(user, it.run)
        ended = status(user, it.run)["phase"]
        if ended != "finished":
            forks.run("submit", "--resume", str(it.run), "toy.seconds=0.005")
            wait_until(lambda: status(user, it.run)["phase"] in ("finished", "failed"), "the end", cluster, 120)
        assert status(user, it.run)["phase"] == "finished"
        assert losses(it.run) == uninterrupted(it.run)
        for (_, last, one), (first, _, other) in pairwise(it.intervals()):
            assert last < first, f"attempts {one} and {other} trained at the same time"
        assert left_over(user) == []
        assert user.runs() == [it.run]
        print(f"seed {seed}: {len(it.log)} events, {len(it.jobs())} jobs, {len(it.intervals())} attempts that trained")
    except BaseException:
        print("\n".join([f"seed {seed}", *it.log, (it.run / "journal.jsonl").read_text()]))
        raise


def test_whatever_happens_a_run_has_one_owner(user: User, slurm_cluster: VirtualCluster, forks: Launchers) -> None:
    walk(user, slurm_cluster, forks, os.environ.get("TEST_SEED", "owner"), 25)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_many_walks(user: User, slurm_cluster: VirtualCluster, forks: Launchers, seed: int) -> None:
    walk(user, slurm_cluster, forks, f"{os.environ.get('TEST_SEED', 'owner')} {seed}", 60)
