"""`launcher exec` and `launcher stacks`: beside the ranks of a run that goes on, and of no other process."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from launcher.contract.records.nodes import StackDump
from launcher.rundir import Attempt, RunDirectory
from launcher.watch import attach
from tests.backends.containers import contained, missing
from tests.backends.running import LAUNCHER, ROOT, User, user_of
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster

TOY = str(ROOT / "tests/toy/distributed.py")
"""It answers the watchdog, as a rank of Megatron does."""
SLOW = ("--entrypoint", TOY, "toy.backend=none", "toy.iters=2000", "toy.seconds=0.2")


def dump(rank: int, text: str, **more: object) -> StackDump:
    found = {"rank": rank, "host": "n1", "pid": 100 + rank, "by": "py-spy", "text": text, "problem": None}
    return {**found, **more}  # type: ignore[typeddict-item]


def test_equal_stacks_stand_together_and_the_odd_one_first() -> None:
    same = 'Process {0}: python3\nThread {0} (idle): "MainThread"\n    all_reduce (comm.py:7)\n'
    odd = dump(2, 'Thread 0x00007f11 (most recent call first):\n  File "data.py", line 3 in read\n')
    groups = attach.grouped([dump(0, same.format(4711)), dump(1, same.format(4712)), odd])
    assert [[one["rank"] for one in dumps] for dumps, _ in groups] == [[2], [0, 1]]


def test_other_lines_of_a_node_are_left_out() -> None:
    assert attach.parse_dump("srun: warning") is None
    assert attach.parse_dump('{"rank": 1}') is None
    assert attach.parse_dump(json.dumps(dump(1, "x"))) == dump(1, "x")


PLACE = attach.Place(
    RunDirectory(Path("/runs/small/1")), Attempt(Path("/runs/small/1/attempts/000")), None, None, ("n1",), 1, 1
)


def test_ctrl_c_is_left_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        attach, "command", lambda *_, **__: ["sh", "-c", "sleep 0.2; kill -INT $PPID; sleep 0.2; exit 5"]
    )
    assert attach.execute(PLACE, 0, (), terminal=False) == 5


def test_a_signal_that_ends_the_command_is_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "command", lambda *_, **__: ["sh", "-c", "kill -KILL $$"])
    assert attach.execute(PLACE, 0, (), terminal=False) == 137


def running(user: User, deadline_s: float = 60) -> Path:
    """The directory of the newest run, once all of its ranks have gone one iteration."""
    end = time.monotonic() + seconds(deadline_s)
    while time.monotonic() < end:
        for run in user.runs()[-1:]:
            metrics = run / "attempts/000/metrics.jsonl"
            if metrics.exists() and metrics.read_text().count("\n") >= 1:
                return run
        time.sleep(0.2)
    raise AssertionError("the run did not start")


def test_beside_the_ranks_of_a_job(slurm_cluster: VirtualCluster, tmp_path: Path) -> None:
    user = user_of(tmp_path, slurm_cluster)
    user.run("submit", "small.py", "--nodes=2", "--time=10", *SLOW)
    run = running(user)
    done = user.run(
        "exec", "small", "--rank", "3", "--", "bash", "-c", 'echo "$RANK $SLURMD_NODENAME $PWD"; exit 5', status=5
    )
    assert done.stdout.split() == ["3", "n2", str(run)]
    found = json.loads(user.run("stacks", "small", "--json").stdout)
    assert [(one["rank"], one["host"]) for one in found["ranks"]] == [(0, "n1"), (1, "n1"), (2, "n2"), (3, "n2")]
    assert found["missing"] == []
    for one in found["ranks"]:
        assert one["by"] in ("py-spy", "faulthandler") and "entrypoint.py" in one["text"], one
    table = user.run("stacks", str(run), "--rank", "2").stdout
    assert table.startswith("rank 2 on n2")
    assert user.run("exec", "small", "--rank", "4", "--", "true", status=2).stderr.count("has no rank 4") == 1
    status = json.loads(user.run("status", "small", "--json").stdout)["runs"][0]
    assert status["phase"] == "running"  # nothing of it ended the run
    slurm_cluster.cancel_all()
    slurm_cluster.wait_idle()
    assert "is not running" in user.run("exec", "small", "--", "true", status=2).stderr


def test_in_the_container_of_the_rank(slurm_cluster: VirtualCluster, image_file: Path, tmp_path: Path) -> None:
    if (reason := missing("bwrap")) is not None:
        pytest.skip(reason)
    scene = contained(tmp_path, "bwrap", image_file, slurm_cluster)
    asked = scene.arguments("--cluster", "here", "--nodes", "2", "--time", "10", *SLOW[2:], program=TOY)
    scene.user.run("submit", *asked)
    run = running(scene.user)
    words = ("--rank", "3", "--", "bash", "-c", 'cat /etc/made-for; echo "$GREETING"; pwd')
    done = scene.user.run("exec", "small", *words)
    assert done.stdout.splitlines() == ["tests", "hello from the image", str(run)]
    found = json.loads(scene.user.run("stacks", "small", "--json").stdout)
    assert [one["rank"] for one in found["ranks"]] == [0, 1, 2, 3]
    assert all(one["by"] and "entrypoint.py" in one["text"] for one in found["ranks"]), found


def test_beside_a_run_on_this_machine(tmp_path: Path) -> None:
    user = user_of(tmp_path)
    argv = [str(LAUNCHER), "run", "small.py", "--gpus-per-node", "2", *SLOW]
    process = subprocess.Popen(
        argv, cwd=tmp_path, env=user.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        run = running(user)
        assert user.run("exec", "small", "--rank", "1", "--", "printenv", "LOCAL_RANK").stdout == "1\n"
        assert user.run("exec", "small", "--", "no-such-program", status=127).stderr.count("no-such-program") == 1
        found = json.loads(user.run("stacks", str(run), "--json").stdout)
        assert [one["rank"] for one in found["ranks"]] == [0, 1]
        assert all("entrypoint.py" in one["text"] for one in found["ranks"])
    finally:
        user.run("cancel", "small")
        process.wait(seconds(60))
    refused = user.run("stacks", "small", status=2)
    assert "is not running" in refused.stderr


def test_a_command_is_needed(tmp_path: Path) -> None:
    user = user_of(tmp_path)
    assert "no command was given" in user.run("exec", "small", status=2).stderr
    said = user.run("exec", "small", "nvidia-smi", "-L", status=2).stderr
    assert "launcher exec ... -- nvidia-smi" in said and "Slurm" not in said
