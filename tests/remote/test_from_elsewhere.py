"""submit, status, logs, pull and cancel from another machine: a real sshd, with a virtual Slurm behind it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.backends.running import ROOT, TOY, User
from tests.remote.sshd import Wire, missing, options, sshd
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster

CANARY = "canary-7f3a91c2"
NAME = "HF_TOKEN"


@dataclass
class Laptop:
    """A user on another machine, without Slurm, and the home directory on the host."""

    user: User
    home: Path
    wire: Wire
    keys: Path
    cluster: VirtualCluster

    def submit(self, *more: str, recipe: str = "small.py", **given: Any) -> "subprocess.CompletedProcess[str]":
        words = ("submit", recipe, "--cluster", "far", "--json", "--time", "5", *more)
        return self.user.run(*words, timeout_s=120, **given)

    def runs(self) -> list[Path]:
        return [path.parent for path in self.home.glob("runs/*/[!.]*/plan.json")]

    def jobs(self) -> list[str]:
        return self.cluster.run("squeue", "--noheader", "--states=all", "--format=%i %o").stdout.splitlines()

    def forget_connection(self) -> None:
        """End the shared connection, so that the next command makes one of its own."""
        argv = [*self.argv()[:-1], "-O", "exit", "host.example"]
        subprocess.run(["ssh", *argv], capture_output=True, timeout=seconds(20))

    def argv(self) -> list[str]:
        words = [
            f"ControlPath=/tmp/launcher-ssh-{os.geteuid()}/%C",
            "HostName=127.0.0.1",
            *options(self.keys, self.wire.port),
        ]
        return [*(word for each in words for word in ("-o", each)), "host.example"]


@pytest.fixture
def laptop(slurm_cluster: VirtualCluster, tmp_path: Path) -> Iterator[Laptop]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    home, mine = tmp_path / "home", tmp_path / "laptop"
    for each in (home, mine, mine / "clusters", mine / "lib"):
        each.mkdir()
    environment = {name: slurm_cluster.environment[name] for name in ("SLURM_CONF", "PATH")}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(home / "state")}
    environment |= {"LAUNCHER_CACHE": str(home / "cache")}
    with sshd(tmp_path / "keys", environment) as port:
        wire = Wire(port)
        own = [*options(tmp_path / "keys", wire.port), "HostName=127.0.0.1"]
        (mine / "clusters/far.toml").write_text(
            'extends = "slurm"\ndevice = "cpu"\ngpus_per_node = 2\n[env]\nOF_PROFILE = "it\'s $HOME"\n'
            f'[ssh]\nhost = "host.example"\nrun_root = "{home}/runs"\npython = "{sys.executable}"\n'
            f"options = {json.dumps(own)}\n"
        )
        (mine / "small.py").write_text("import helper\n\n\ndef configure(text=None):\n    return None\n")
        (mine / "helper.py").write_text("VALUE = 1\n")
        environ = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("LAUNCHER", "SLURM", "SBATCH"))
            },
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "LAUNCHER_CLUSTERS": str(mine / "clusters"),
            "LAUNCHER_CACHE": str(mine / "cache"),
            "XDG_STATE_HOME": str(mine / "state"),
            "HOME": str(mine),
        }
        environ.pop("XDG_RUNTIME_DIR", None)
        found = Laptop(User(mine, environ), home, wire, tmp_path / "keys", slurm_cluster)
        yield found
        found.forget_connection()
        wire.close()


def until_over(laptop: Laptop, run: str) -> dict[str, Any]:
    deadline = time.monotonic() + seconds(90)
    while True:
        (found,) = json.loads(laptop.user.run("status", run, "--cluster", "far", "--json").stdout)["runs"]
        if found["over"]:
            return dict(found)
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


@pytest.mark.timeout(400)
def test_a_run_from_submission_to_its_copy_over_one_connection(laptop: Laptop) -> None:
    user = User(laptop.user.directory, {**laptop.user.environ, NAME: CANARY})
    laptop.user = user
    planned = user.run("plan", "small.py", "--cluster", "far", "toy.iters=3", "--entrypoint", TOY).stdout
    assert "batch job" in planned and laptop.runs() == []
    answer = json.loads(
        laptop.submit("toy.iters=4", "text=a b", "--entrypoint", TOY, "--env", NAME, "--once", "k").stdout
    )
    run = Path(answer["run_dir"])
    assert answer["host"] == "host.example" and run.is_relative_to(laptop.home / "runs")
    again = json.loads(
        laptop.submit("toy.iters=4", "text=a b", "--entrypoint", TOY, "--env", NAME, "--once", "k").stdout
    )
    assert again["job"] == answer["job"]
    found = until_over(laptop, answer["run_id"])
    assert found["phase"] == "finished", found
    seen = json.loads((run / "attempts/000/ranks/0000.seen.json").read_text())
    assert seen["environment"][NAME] == CANARY, "passed on by name"
    assert seen["environment"]["OF_PROFILE"] == "it's $HOME"
    assert (run / "code/recipe/helper.py").read_text() == "VALUE = 1\n"
    assert "iteration 4/4" in user.run("logs", answer["run_id"], "--cluster", "far", "--rank", "0").stdout
    assert "iteration 4/4" in user.run("logs", "-f", "small", "--cluster", "far").stdout
    assert "finished" in user.run("status", "--cluster", "far").stdout
    copy = Path(json.loads(user.run("pull", "small", "--cluster", "far", "--json").stdout)["run_dir"])
    assert copy.is_relative_to(user.directory / "runs")
    for name in ("attempts/000/metrics.jsonl", "attempts/000/result.json", "plan.json"):
        assert (copy / name).read_bytes() == (run / name).read_bytes()
    user.run("page", str(copy))
    user.run("pull", "small", "--cluster", "far")  # again: the copy is replaced
    assert laptop.wire.connections == 1, "ten commands over one connection"
    for root in (laptop.home, user.directory):
        for path in root.rglob("*"):
            if path.is_file() and not path.name.endswith("seen.json"):  # the toy's note of its own environment
                assert CANARY.encode() not in path.read_bytes(), path


@pytest.mark.timeout(300)
def test_a_waiting_and_a_running_run_are_cancelled_from_elsewhere(laptop: Laptop) -> None:
    answer = json.loads(laptop.submit("toy.iters=1000", "toy.seconds=0.2", "--entrypoint", TOY).stdout)
    done = laptop.user.run("cancel", answer["run_id"], "--cluster", "far", "--json")
    assert json.loads(done.stdout)["errors"] == {}
    assert until_over(laptop, answer["run_id"])["phase"] == "cancelled"


# The handshake takes about 3 kB, the request about 4 kB; after it the launcher there works for a second or two.
MOMENTS: list[tuple[int | None, float]] = [
    (1, 0.0),
    (1500, 0.0),
    (3000, 0.0),
    (4500, 0.0),
    (6000, 0.0),
    (None, 0.6),
    (None, 1.0),
    (None, 1.5),
    (None, 2.2),
    (None, 3.2),
]


@pytest.mark.timeout(580)
def test_a_connection_cut_at_ten_moments_leaves_exactly_one_job_each(laptop: Laptop) -> None:
    tried = []
    for number, moment in enumerate(MOMENTS):
        laptop.forget_connection()
        laptop.wire.cuts[:] = [moment]
        before = laptop.wire.connections
        done = laptop.submit(
            "toy.iters=1", f"toy.seed={number}", "--entrypoint", TOY, "--name", f"cut{number}", status=None
        )
        assert done.returncode == 0, f"{moment}: {done.stderr}"
        tried.append((moment, laptop.wire.connections - before, "trying again" in done.stderr))
        runs = [run for run in laptop.runs() if run.parent.name == f"cut{number}"]
        assert [str(run) for run in runs] == [json.loads(done.stdout)["run_dir"]], moment
        jobs = [line for line in laptop.jobs() if f"/cut{number}/" in line]
        assert len(jobs) == 1 and jobs[0].split()[0] == json.loads(done.stdout)["job"], (moment, jobs)
    assert sum(again for _, _, again in tried) >= 6, tried


@pytest.mark.timeout(300)
def test_a_copy_over_a_lost_connection_is_not_there_or_the_older_one(laptop: Laptop) -> None:
    answer = json.loads(laptop.submit("toy.iters=1", "--entrypoint", TOY).stdout)
    until_over(laptop, answer["run_id"])
    (Path(answer["run_dir"]) / "attempts/000/large").write_bytes(os.urandom(3_000_000))
    copy = laptop.user.directory / "runs/small" / answer["run_id"]
    for older in (False, True):
        laptop.forget_connection()
        laptop.wire.cuts[:] = [(-1_000_000, 0.0)]
        done = laptop.user.run("pull", "small", "--cluster", "far", status=3)
        assert "the connection" in done.stderr, done.stderr
        assert copy.exists() == older
        assert not list((laptop.user.directory / "runs").glob(".pull-*"))
        laptop.user.run("pull", "small", "--cluster", "far")
        assert (copy / "attempts/000/large").stat().st_size == 3_000_000


WRONG: list[tuple[str, tuple[str, ...], int, str]] = [
    ("", ("submit", "none.py", "--cluster", "far"), 2, "there is no recipe"),
    ("", ("submit", "small.py", "--cluster", "far", "--follow"), 2, "the job is on another machine"),
    ("", ("submit", "small.py", "--cluster", "far", "--run-root", "x"), 2, "where its profile says"),
    ("", ("submit", "small.py", "--cluster", "far", "--attempts", "2"), 2, "--once submits one job"),
    ("", ("submit", "small.py", "--cluster", "far", "--once", "k", "--dry-run"), 2, "--once has no effect"),
    ("", ("doctor", "--cluster", "far"), 2, "of a cluster that this machine reaches by ssh"),
    ("", ("submit", "small.py", "--cluster", "far", "--mcore", "lib"), 2, "lib is a directory of this machine"),
    (
        "",
        ("submit", "small.py", "--cluster", "far", "--partition", "none", "--no-check-config"),
        2,
        "sbatch refused the job",
    ),
    ("", ("submit", "small.py", "--cluster", "far", "--env", "HF_TOKEN=hf_" + 34 * "a"), 2, "looks like a secret"),
    ("", ("run", "small.py", "--cluster", "far"), 2, "of a cluster that this machine reaches by ssh"),
    ("", ("logs", "none", "--cluster", "far"), 2, "none"),
    ("", ("cancel", "none", "--cluster", "far"), 2, "none"),
    ("", ("pull", "none", "--cluster", "far"), 2, "host.example: "),
    ("", ("pull", "none"), 2, "the runs of this cluster are on this machine"),
    ("", ("logs", "x", "--cluster", "far", "--run-root", "y"), 2, "--cluster says where runs are"),
    ('python = "/no/python"', ("status", "--cluster", "far"), 3, "there is no interpreter '/no/python' there"),
    ('host = "-oProxyCommand=x"', ("status", "--cluster", "far"), 2, "ssh.host"),
    ('options = ["ForwardAgent=yes"]', ("status", "--cluster", "far"), 2, "ForwardAgent is the launcher's own"),
    ('options = ["nonsense"]', ("status", "--cluster", "far"), 2, "is not an option of ssh_config"),
    ('options = ["Port=1", "HostName=127.0.0.1"]', ("status", "--cluster", "far"), 3, "the connection failed or ended"),
]


@pytest.mark.timeout(300)
def test_what_is_wrong_is_refused_and_leaves_nothing(laptop: Laptop) -> None:
    profile = laptop.user.directory / "clusters/far.toml"
    text = profile.read_text()
    for change, words, status, message in WRONG:
        key = change.partition(" ")[0]
        changed = [change if key and line.startswith(f"{key} = ") else line for line in text.splitlines()]
        profile.write_text("\n".join([*changed, ""]))
        done = laptop.user.run(*words, status=None, environ={"LAUNCHER_CLUSTER": ""})
        assert (done.returncode, message in done.stderr) == (status, True), f"{words}: {done.returncode} {done.stderr}"
    assert laptop.runs() == []
