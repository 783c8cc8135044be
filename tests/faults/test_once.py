"""`submit --once KEY`: one submission for a key, whatever becomes of the launchers. Cost: about 60 s.

Jobs are counted by Slurm's own list, which has each one's comment, and by the line that each appends when it runs.
"""

import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.backends.running import User, user_of
from tests.faults.forks import Fault, Launchers, launchers
from tests.faults.shims import put, two_clusters
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until

PROGRAM = """\
import os
from pathlib import Path

run = Path(os.environ["LAUNCHER_RUN_DIR"])
(run / "checkpoints/iter_0000001").mkdir(parents=True, exist_ok=True)
with (run.parent.parent / "counted").open("a") as file:
    file.write(f"{run} {os.environ['SLURM_JOB_ID']}\\n")
"""
COMMON = ("small.py", "--nodes=1", "--gpus-per-node=1", "--entrypoint=count.py", "--no-check-config")
HOLD = ("--sbatch", "hold")
TOKEN = re.compile(r"launcher:\d{8}-\d{6}-[0-9a-f]{12}:[0-9a-f]{12}")
LEFT = re.compile(r"\.partial$|\.tmp$|^\.lease\.|^\.latest\.|\.lock$")


def user_with(directory: Path, cluster: VirtualCluster) -> User:
    user = user_of(directory, cluster)
    (directory / "count.py").write_text(PROGRAM)
    return user


@pytest.fixture
def user(slurm_cluster: VirtualCluster, tmp_path: Path) -> User:
    return user_with(tmp_path, slurm_cluster)


@pytest.fixture
def forks(user: User) -> Iterator[Launchers]:
    with launchers(user) as server:
        yield server


def jobs(cluster: VirtualCluster, user: User) -> Counter[str]:
    """The number of jobs of each run of the user, by the script that Slurm has for each job."""
    lines = cluster.run("squeue", "-h", "--states=all", "-o", "%o").stdout.splitlines()
    scripts = [line.split()[0] for line in lines if line.startswith(f"{user.directory}/runs/")]
    return Counter(str(Path(script).parent) for script in scripts)


def counted(user: User) -> Counter[str]:
    """How often each run's program has run, by the program's own account."""
    path = user.directory / "runs/counted"
    return Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()


def left_over(user: User) -> list[str]:
    """Files that only a launcher at work has."""
    return [str(path) for path in (user.directory / "runs").rglob("*") if LEFT.search(path.name)]


def release(cluster: VirtualCluster, user: User) -> None:
    """Let the user's held jobs run, and wait for the end of all."""
    lines = cluster.run("squeue", "-h", "-o", "%i|%o").stdout.splitlines()
    mine = [line.partition("|")[0] for line in lines if f"|{user.directory}/runs/" in line]
    if mine:
        cluster.run("scontrol", "release", ",".join(mine))
    wait_until(
        lambda: (
            not any(str(user.directory) in line for line in cluster.run("squeue", "-h", "-o", "%o").stdout.splitlines())
        ),
        "the jobs to end",
        cluster,
        120,
    )


def answer(text: str) -> dict[str, object]:
    """The JSON object in the output of a command."""
    return dict(json.loads(text[text.index("{") :]))


@pytest.mark.fault("submission twice")
def test_a_key_is_one_run_and_another_request_is_refused(
    user: User, slurm_cluster: VirtualCluster, forks: Launchers
) -> None:
    key = ("--once", "sweep lr=1e-4", "--json")
    first = answer(user.run("submit", *COMMON, *HOLD, *key, "toy.iters=3").stdout)
    assert first["new"] is True
    again = answer(forks.run("submit", *COMMON, *HOLD, *key, "toy.iters=3").text)
    assert again == {**first, "new": False}
    run = Path(str(first["run_dir"]))
    # Whatever its state: queued, ended, and after Slurm has forgotten the job.
    for state in ("queued", "ended"):
        if state == "ended":
            user.run("cancel", str(run))
            slurm_cluster.wait(str(first["job"]), "CANCELLED")
        assert answer(forks.run("submit", *COMMON, *HOLD, *key, "toy.iters=3").text)["job"] == first["job"]
    refused = forks.run("submit", *COMMON, *HOLD, *key, "toy.iters=4", "--nodes=2", status=2).text
    for part in ("nodes is 2, not 1", "toy.iters=4 is new", "toy.iters=3 is missing", run.name):
        assert part in refused
    (user.directory / "small.py").write_text((user.directory / "small.py").read_text() + "\n# changed\n")
    refused = forks.run("submit", *COMMON, *HOLD, *key, "toy.iters=3", status=2).text
    assert "the file small.py has changed" in refused
    assert "--once has no effect with --dry-run" in forks.run("submit", *COMMON, *key, "--dry-run", status=2).text
    assert sum(jobs(slurm_cluster, user).values()) == 1
    # Another key is another run; of a request that is wrong, or that Slurm refuses, nothing stays.
    forks.run("submit", *COMMON, "--once=wrong", "--nodes=2", "--cluster=none", status=2)
    forks.run("submit", *COMMON, "--once=refused", "--partition=none", status=2)
    second = answer(forks.run("submit", *COMMON, *HOLD, "--once=refused", "--json").text)
    assert second["job"] != first["job"]
    shutil.rmtree(run)
    (user.directory / "small.py").write_text("def configure(text=None, other=None):\n    return None\n")
    gone = forks.run("submit", *COMMON, *HOLD, *key, "toy.iters=3", status=2).text
    assert "its directory is gone" in gone


def test_from_python(user: User, slurm_cluster: VirtualCluster) -> None:
    code = (
        "import launcher\n"
        "def go(*more): return launcher.submit('small.py', *more, nodes=1, gpus_per_node=1, entrypoint='count.py',\n"
        "    check_config=False, sbatch={'hold': True}, once='mine')\n"
        "assert go().directory == go().directory\n"
        "try: go('toy.iters=4')\n"
        "except launcher.RequestError as error: assert 'toy.iters=4 is new' in error.message\n"
        "else: raise AssertionError\n"
    )
    user.call([sys.executable, "-c", code])
    assert sum(jobs(slurm_cluster, user).values()) == 1


AT_ONCE = 5
"""Launchers of different keys at work together: none waits for another."""


def batches(commands: Sequence[tuple[str, ...]]) -> Iterator[Sequence[tuple[str, ...]]]:
    return (commands[start : start + AT_ONCE] for start in range(0, len(commands), AT_ONCE))


def done(forks: Launchers, commands: Sequence[tuple[str, ...]]) -> float:
    """Run the commands at once; each has to succeed. Return how many seconds that took."""
    began = time.monotonic()
    started = [forks.start(*arguments) for arguments in commands]
    assert [each.wait() for each in started] == [0] * len(started), [each.text for each in started]
    return time.monotonic() - began


class Killer:
    """Kills launchers at random moments of their work."""

    def __init__(self, longest_s: float) -> None:
        self.longest_s = longest_s
        """The last moment. It follows what launchers take on this machine now, so that a quarter ends before it."""
        self.draw = random.Random(os.environ.get("TEST_SEED", "once"))  # noqa: S311
        self.alive = 0
        """How many were at work when they were killed."""

    def kill(self, forks: Launchers, commands: Sequence[tuple[str, ...]]) -> None:
        """Start the commands at once and kill each, and one in four once more."""
        for some in (commands, self.draw.sample(commands, len(commands) // 4)):
            moments = sorted((self.draw.uniform(0, self.longest_s), number) for number in range(len(some)))
            began = time.monotonic()
            started = [forks.start(*arguments) for arguments in some]
            for moment, number in moments:
                time.sleep(max(0.0, began + moment - time.monotonic()))
                started[number].kill()
            alive = [each.wait() for each in started].count(137)
            self.alive += alive
            self.longest_s *= 0.8 if alive < len(some) * 0.7 else 1.1


def kills(user: User, cluster: VirtualCluster, forks: Launchers, number: int) -> None:
    """Kill `number` submissions and as many resumes of their runs, some twice; the next try does what is left to do."""
    submissions = [("submit", *COMMON, *HOLD, f"--once={key}") for key in range(number)]
    killer = Killer(done(forks, [("submit", *COMMON, *HOLD, f"--once=whole {key}") for key in range(AT_ONCE)]))
    for batch in batches(submissions):
        killer.kill(forks, batch)
        done(forks, batch)
    runs = user.runs()
    assert killer.alive > number / 2, "most were at work when they were killed"
    assert len(runs) == number + AT_ONCE
    assert jobs(cluster, user) == {str(run): 1 for run in runs}
    assert left_over(user) == []
    release(cluster, user)
    assert counted(user) == {str(run): 1 for run in runs}
    resumed = runs[-number:]
    resumes = [("submit", "--resume", str(run), *HOLD, "toy.iters=9", f"--once=more {run.name}") for run in resumed]
    for batch in batches(resumes):
        killer.kill(forks, batch)
        done(forks, batch)
    assert killer.alive > number, "most were at work when they were killed"
    expected = {str(run): 2 if run in resumed else 1 for run in runs}
    assert jobs(cluster, user) == expected
    release(cluster, user)
    assert counted(user) == expected
    assert sorted(user.runs()) == sorted(runs)
    assert left_over(user) == []
    for run in resumed:
        kept = json.loads((run / "attempts/000/plan.json").read_text())
        assert (kept["submission"], kept["overrides"]) == (0, []), "the first attempt's own plan is kept"


@pytest.mark.fault("launcher killed")
def test_launchers_killed_at_random_moments(user: User, slurm_cluster: VirtualCluster, forks: Launchers) -> None:
    kills(user, slurm_cluster, forks, 50)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_many_launchers_killed_at_random_moments(user: User, slurm_cluster: VirtualCluster, forks: Launchers) -> None:
    kills(user, slurm_cluster, forks, 200)


def failures(user: User, cluster: VirtualCluster, forks: Launchers, stride: int) -> None:
    """Let every `stride`-th change of a file fail, once or from then on; the next try completes the submission."""
    below, count = str(user.directory / "runs"), user.directory / "changes"
    forks.run("submit", *COMMON, *HOLD, "--once=counted", fault=Fault(0, below=below, count=str(count)))
    changes = int(count.read_text())
    assert changes > 20
    for number in range(1, changes + 1, stride):
        arguments = ("submit", *COMMON, *HOLD, f"--once={number}")
        failed = forks.run(*arguments, fault=Fault(number, number % 2 == 0, below), status=None)
        assert "Traceback" not in failed.text
        forks.run(*arguments)
    runs = user.runs()
    assert len(runs) == 1 + len(range(1, changes + 1, stride))
    assert jobs(cluster, user) == {str(run): 1 for run in runs}
    assert left_over(user) == []


def test_changes_of_files_that_fail(user: User, slurm_cluster: VirtualCluster, forks: Launchers) -> None:
    failures(user, slurm_cluster, forks, 3)


@pytest.mark.soak
def test_every_change_of_a_file_fails(user: User, slurm_cluster: VirtualCluster, forks: Launchers) -> None:
    failures(user, slurm_cluster, forks, 1)


def test_four_at_once(user: User, slurm_cluster: VirtualCluster, forks: Launchers) -> None:
    """With one key they return one run; with four keys and one drawn id each has a run of its own."""
    started = [forks.start("submit", *COMMON, *HOLD, "--once=one", "--json") for _ in range(4)]
    assert [each.wait() for each in started] == [0] * 4, [each.text for each in started]
    found = [answer(each.text) for each in started]
    assert len({str(each["run_dir"]) for each in found}) == 1
    assert sorted(bool(each["new"]) for each in found) == [False, False, False, True]
    release(slurm_cluster, user)
    (run,) = user.runs()
    started = [forks.start("submit", "--resume", str(run), *HOLD, "--once=two", "--json") for _ in range(4)]
    assert [each.wait() for each in started] == [0] * 4, [each.text for each in started]
    assert len({str(answer(each.text)["job"]) for each in started}) == 1
    assert jobs(slurm_cluster, user) == {str(run): 2}
    same = Fault(run_id="20260101-000000-000000000000")
    started = [forks.start("submit", *COMMON, *HOLD, f"--once=id {key}", fault=same) for key in range(4)]
    assert [each.wait() for each in started] == [0] * 4, [each.text for each in started]
    assert sorted(jobs(slurm_cluster, user).values()) == [1, 1, 1, 1, 2]
    assert left_over(user) == []


KILLING = """#!/bin/bash
answer=$(/usr/bin/sbatch "$@") || exit
{more}
kill -9 $PPID
"""
SILENT = """#!/bin/bash
/usr/bin/sbatch "$@" >/dev/null || exit
echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2
exit 1
"""


def test_an_answer_that_is_lost(user: User, slurm_cluster: VirtualCluster, forks: Launchers) -> None:
    """sbatch says that it got no answer, or the launcher is killed when it comes."""
    arguments = ("submit", *COMMON, *HOLD)
    shims = put(user, {"sbatch": SILENT})
    assert answer(forks.run(*arguments, "--once=silent", "--json").text)["new"] is True
    put(user, {"sbatch": KILLING.format(more="")})
    forks.run(*arguments, "--once=killed", status=137)
    (shims / "sbatch").unlink()
    found = answer(forks.run(*arguments, "--once=killed", "--json").text)
    assert found["new"] is False
    assert jobs(slurm_cluster, user) == {str(run): 1 for run in user.runs()}
    assert len(user.runs()) == 2
    # The same where the job has run meanwhile and Slurm has forgotten it: its lease says that it was there.
    put(user, {"sbatch": KILLING.format(more="")})
    forks.run("submit", *COMMON, "--once=ended", status=137)
    (shims / "sbatch").unlink()
    wait_until(lambda: sum(counted(user).values()) == 1, "the job to run", slurm_cluster, 30)
    wait_until(
        lambda: not slurm_cluster.run("squeue", "-h", "--states=R,CG").stdout, "the job to end", slurm_cluster, 30
    )
    put(user, {"squeue": "#!/bin/bash\nexit 0\n"})
    assert answer(forks.run("submit", *COMMON, "--once=ended", "--json").text)["new"] is False
    (shims / "squeue").unlink()
    assert jobs(slurm_cluster, user) == {str(run): 1 for run in user.runs()}


REWRITING = """
function slurm_job_submit(request, partitions, uid)
    request.comment = '{"APS": {"auto_resume_mode": "requeue"}}'
    return slurm.SUCCESS
end
function slurm_job_modify(request, record, partitions, uid)
    return slurm.SUCCESS
end
"""


def test_a_frozen_controller_and_a_comment_that_the_site_rewrites(
    new_cluster: Callable[..., VirtualCluster], tmp_path: Path
) -> None:
    cluster = new_cluster(nodes=1, message_timeout_s=3)
    user = user_with(tmp_path, cluster)
    with launchers(user) as forks:
        for orphan_is_killed in (True, False):
            arguments = ("submit", *COMMON, *HOLD, f"--once=frozen {orphan_is_killed}")
            cluster.pause_controller()
            tried = forks.start(*arguments)
            wait_until(lambda: bool(sbatches(user)), "sbatch", cluster, 20)
            time.sleep(0.3)
            tried.kill()
            tried.wait()
            if orphan_is_killed:
                for pid in sbatches(user):
                    os.kill(pid, signal.SIGKILL)
            again = forks.start(*arguments)
            time.sleep(0.3)
            cluster.resume_controller()
            assert again.wait() == 0, again.text
        assert list(jobs(cluster, user).values()) == [1, 1]
        assert left_over(user) == []

        # An orphaned sbatch that reaches Slurm later than its MessageTimeout: the next try waits for its end.
        arguments = ("submit", *COMMON, *HOLD, "--once=slow")
        asked = tmp_path / "asked"
        shims = put(user, {"sbatch": f'#!/bin/bash\ntouch {asked}\nsleep 6\nexec /usr/bin/sbatch "$@"\n'})
        tried = forks.start(*arguments)
        wait_until(asked.exists, "sbatch", cluster, 20)
        assert any(intended(run) for run in user.runs())
        wait_until(lambda: bool(sbatches(user)), "the slow sbatch", cluster, 20)
        tried.kill()
        tried.wait()
        (shims / "sbatch").unlink()
        assert answer(forks.run(*arguments, "--json").text)["new"] is False
        assert list(jobs(cluster, user).values()) == [1, 1, 1]

        cluster.stop_controller()
        (cluster.conf.parent / "job_submit.lua").write_text(REWRITING)
        with cluster.conf.open("a") as file:
            file.write("JobSubmitPlugins=lua\n")
        cluster.start_controller()
        wait_until(lambda: cluster.run("sinfo", "-h", check=False).returncode == 0, "slurmctld", cluster)
        arguments = ("submit", *COMMON, *HOLD, "--once=rewritten")
        shims = put(user, {"sbatch": KILLING.format(more="")})
        forks.run(*arguments, status=137)
        (shims / "sbatch").unlink()
        comments = cluster.run("squeue", "-h", "-o", "%k").stdout
        assert "APS" in comments, "the site has rewritten it"
        assert answer(forks.run(*arguments, "--json").text)["new"] is False
        assert list(jobs(cluster, user).values()) == [1, 1, 1, 1]
        # A resume: jobs of the run that were submitted before have the same script.
        release(cluster, user)
        run = user.runs()[-1]
        resume = ("submit", "--resume", str(run), *HOLD, "--once=rewritten too")
        put(user, {"sbatch": KILLING.format(more="")})
        forks.run(*resume, status=137)
        (shims / "sbatch").unlink()
        forks.run(*resume)
        assert jobs(cluster, user)[str(run)] == 2


def intended(run: Path) -> bool:
    """Whether the launcher was about to submit the run, and knows nothing more."""
    return [json.loads(line)["event"] for line in (run / "journal.jsonl").read_text().splitlines()] == ["submit_intent"]


def sbatches(user: User) -> list[int]:
    """The processes of sbatch that submit a run of the user."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        of_user = any(os.fsencode(user.directory) in word for word in words)
        if of_user and any(word.endswith(b"sbatch") for word in words[:2]):
            found.append(int(path.parent.name))
    return found


def test_a_job_on_another_cluster(new_cluster: Callable[..., VirtualCluster], tmp_path: Path) -> None:
    """Both clusters have given out the same number; the run's job is found on the one where it is."""
    home, other = new_cluster(nodes=1), new_cluster(nodes=1)
    precious = home.submit("sleep 600", "--hold")
    user = user_with(tmp_path, home)
    two_clusters(user, home, other)
    with launchers(user) as forks:
        arguments = ("submit", *COMMON, *HOLD, "--sbatch", "clusters=other", "--once=there", "--json")
        real = (user.directory / "shims/sbatch").read_text()
        killing = real.replace('echo "$answer;other"; exit 0', "kill -9 $PPID; exit 0")
        assert killing != real
        put(user, {"sbatch": killing})
        forks.run(*arguments, status=137)
        put(user, {"sbatch": real})
        found = answer(forks.run(*arguments).text)
        assert (found["job"], found["cluster"], found["new"]) == (precious, "other", False)
        assert answer(forks.run(*arguments).text) == found
    assert list(jobs(other, user).values()) == [1]
    assert list(jobs(home, user).values()) == []
    assert home.state(precious) == "PENDING"
