"""Eight kinds of hang with real gloo, all at once: the right rank is named, in time, with stacks; about 40 s.

Three ranks each, on this machine. With the defaults a hang would take five minutes: the same logic runs here with
lower limits. What is slow and right at the same time raises no alarm.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from launcher.contract import flight_recorder
from tests.backends.running import LAUNCHER, RECIPE, ROOT, user_of
from tests.backends.running import PROFILE as NODES
from tests.support.fault_table import Faults
from tests.support.limits import SCALE, seconds
from tests.support.slurm.virtual_cluster import VirtualCluster, wait_until
from tests.support.warm import warm_python

TOY = str(ROOT / "tests/toy/distributed.py")
HANG_S, SAVE_S, START_S = 6 * SCALE, 10 * SCALE, 20 * SCALE
PROFILE = """extends = "local"
device = "cpu"
gpus_per_node = 3
"""
LIMITS = f"hang_limit_s = {HANG_S}\nsave_limit_s = {SAVE_S}\nevaluation_limit_s = {SAVE_S}\n"
END_S = 30.0
"""Within this time after the last step an attempt has to be over."""

# how: (what is said of rank 1, or of the others, the innermost frame of rank 1)
KINDS = {
    "stop": ("rank 1 is stopped by a signal in training step 5", "hang"),
    "loop": ("rank 1 has not joined the collective: in training step 5, in hang (code/entrypoint.py", "hang"),
    "gil": ("rank 1 has not joined the collective: in training step 5, in hang (code/entrypoint.py", "hang"),
    "loader": ("rank 1 has not joined the collective: in training step 5, in _try_get_data (torch/utils/data/", ""),
    "skip": ("rank 1 is in all_gather 9 of default_pg, not in that of most", "all_gather"),
    "other": ("rank 1 is in broadcast 9 of default_pg, not in that of most", "broadcast"),
    "save": ("rank 1 has not joined the collective: while saving after 5 steps, in hang (code/entrypoint.py", "hang"),
    "join": ("rank 1 has not joined the collective: while setting up, in hang (code/entrypoint.py", "hang"),
    "start": ("rank 1 never started the program", None),
}
SLOW = ("+toy.how=slow", f"+toy.slow_s={HANG_S * 0.8}", "+toy.iters=6")


@dataclass(frozen=True)
class Started:
    """A run in the foreground of a process of its own."""

    directory: Path
    process: "subprocess.Popen[str]"

    def wait(self) -> "subprocess.CompletedProcess[str]":
        out, error = self.process.communicate(timeout=seconds(120))
        return subprocess.CompletedProcess([], self.process.returncode, out, error)

    @property
    def attempt(self) -> Path:
        return next(self.directory.glob("runs/*/*/attempts/000"))

    def read(self, name: str) -> Any:
        return json.loads((self.attempt / name).read_text())


def start(directory: Path, *overrides: str, start_limit_s: float = 120, limits: str = LIMITS) -> Started:
    """Start the toy in the foreground of a process of its own."""
    directory.mkdir()
    (directory / "small.py").write_text(RECIPE)
    limits += f"start_limit_s = {start_limit_s}\n" if limits else ""
    return launch(directory, "small.py", "--entrypoint", TOY, "+toy.rank=1", *overrides, limits=limits)


def launch(directory: Path, *arguments: str, limits: str = f"{LIMITS}start_limit_s = 120\n") -> Started:
    """Start `launcher run` with the profile of three ranks."""
    (directory / "clusters").mkdir(parents=True)
    (directory / "clusters" / "three.toml").write_text(f'{PROFILE}{limits}python = "{warm_python()}"\n')
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("LAUNCHER", "SLURM"))}
    environ |= {"LAUNCHER_CLUSTERS": str(directory / "clusters"), "LAUNCHER_CLUSTER": "three"}
    process = subprocess.Popen(
        [str(LAUNCHER), "run", *arguments, "--no-check-config"],
        cwd=directory,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Started(directory, process)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Started]]:
    """The runs of the tests that were selected."""
    directory = tmp_path_factory.mktemp("hangs")
    selected = [item.name for item in request.session.items if item.path == request.path]
    kinds = [how for how in KINDS if any(f"[{how}]" in name for name in selected)]
    subprocess.run([warm_python(), "-c", ""], check=True, timeout=seconds(120))  # its imports take time
    limits = {"start": START_S, "join": START_S}
    started = {how: start(directory / how, f"+toy.how={how}", start_limit_s=limits.get(how, 120)) for how in kinds}
    if test_what_is_slow_and_right_raises_no_alarm.__name__ in selected:
        started["slow"] = start(directory / "slow", *SLOW)
    yield started
    for run in started.values():
        if run.process.poll() is None:  # its ranks hang, and no watchdog has ended them
            import psutil

            for process in psutil.Process(run.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            run.process.wait(seconds(60))


@pytest.mark.megatron
@pytest.mark.parametrize("how", KINDS)
@pytest.mark.fault("hang")
def test_the_rank_that_the_others_wait_for_is_named_in_time(runs: dict[str, Started], how: str, faults: Faults) -> None:
    words, function = KINDS[how]
    done = runs[how].wait()
    result = runs[how].read("result.json")
    assert (done.returncode, result["outcome"], result["failure"]) == (1, "failed", "hang"), done.stderr
    assert result["first_failing_rank"]["rank"] == 1
    assert result["reason"].startswith(f"hang: {words}")
    record = runs[how].read("stacks/node-0000.json")
    by_rank = {one["rank"]: one for one in record["ranks"]}
    assert (record["stage"], sorted(by_rank)) == ("ended", [0, 1, 2])
    if function:
        assert by_rank[1]["stack"][0].startswith(f"{function} ")
    if how not in ("start", "join"):
        assert "wait in" in result["reason"]
        assert all(by_rank[rank]["collectives"] for rank in (0, 2)), "torch's flight recorder was asked"
        dumps, wrong = flight_recorder.read_directory(runs[how].attempt / "stacks")
        assert (wrong, 0 in dumps, 2 in dumps) == ({}, True, True)
        last_step = json.loads((runs[how].attempt / "metrics.jsonl").read_text().splitlines()[-1])
        assert (last_step["iteration"], result["iteration"]) == (4, 4) if how != "save" else (5, 5)
        assert record["time"] - last_step["time"] < END_S * SCALE
    text = (runs[how].attempt / "stacks/node-0000.txt").read_text()
    assert how == "start" or "rank 0, all threads" in text
    assert text.count("most recent call first") >= (2 if how == "start" else 3)
    log = (runs[how].attempt / "logs/rank-0000.log").read_text()
    assert f"launcher: hang: {words}" in log
    faults.note("hang", detected_s=record["silent_s"], verdict=f"hang ({how}): rank 1")


@pytest.mark.megatron
def test_what_is_slow_and_right_raises_no_alarm(runs: dict[str, Started]) -> None:
    done = runs["slow"].wait()
    result = runs["slow"].read("result.json")
    assert (done.returncode, result["outcome"], result["iteration"]) == (0, "finished", 6), done.stderr
    assert not list(runs["slow"].attempt.glob("stacks/node-*.json")), "progress has gone on"


@pytest.mark.megatron
@pytest.mark.soak
@pytest.mark.timeout(600)
def test_with_the_default_limits_what_is_slow_and_right_raises_no_alarm(tmp_path: Path) -> None:
    """A step, a save and an evaluation of 60 s after steps of 0.02 s; a save of 40 s after two of 8 s. Cost: 200 s."""
    stalls = start(tmp_path / "stalls", "+toy.how=slow", "+toy.slow_s=60", "+toy.iters=6", limits="")
    saves = start(tmp_path / "saves", "+toy.save_s=8", "+toy.iters=20", limits="")
    for run, iterations in ((saves, 20), (stalls, 6)):
        out, error = run.process.communicate(timeout=seconds(400))
        result = run.read("result.json")
        assert (run.process.returncode, result["outcome"], result["iteration"]) == (0, "finished", iterations), error
        assert not list(run.attempt.glob("stacks/node-*.json")), "progress has gone on"
        assert "hang" not in (run.attempt / "logs/rank-0000.log").read_text()
        lines = [json.loads(line) for line in (run.attempt / "metrics.jsonl").read_text().splitlines()]
        print(f"{run.directory.name}: {out.strip()} steps of {[round(line['seconds'], 2) for line in lines]} s")


@pytest.mark.megatron
def test_nothing_is_left_of_a_watchdog(runs: dict[str, Started]) -> None:
    for run in runs.values():
        run.wait()
    time.sleep(0.5)
    mine = [str(run.directory) for run in runs.values()]
    left = [
        path
        for path in Path("/dev/shm").glob("launcher-*")
        if any(run.attempt.parents[1].name in path.name for run in runs.values())
    ]
    assert left == []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        assert not any(directory in command for directory in mine), command


# ---- in a training of Megatron Bridge

STUCK = """
import os, time
from megatron.bridge.training import train
from vanilla_gpt_pretrain import configure as plain

def configure(where="", at: int = 0):
    cfg = plain()
    cfg.train.train_iters, cfg.checkpoint.save_interval = 6, 3
    cfg.validation.eval_iters, cfg.validation.eval_interval = 1, 2
    if os.environ.get("RANK") == "1" and where:
        inner, calls = getattr(train, where), []
        def get_stuck(*arguments, **keywords):
            calls.append(1)
            while len(calls) == at:
                time.sleep(0.1)
            return inner(*arguments, **keywords)
        setattr(train, where, get_stuck)
    return cfg
"""


@pytest.mark.megatron
def test_a_training_that_hangs_in_a_step_and_in_a_save(tmp_path: Path) -> None:
    """The phases of Bridge's loop are counted: 30 s; the one without a fault evaluates and saves, and ends well."""
    started = {}
    for where, at in (("train_step", 5), ("save_checkpoint_and_time", 1), ("", 0)):
        directory = tmp_path / (where or "well")
        directory.mkdir()
        (directory / "stuck.py").write_text(STUCK)
        (directory / "vanilla_gpt_pretrain.py").write_text((ROOT / "recipes/vanilla_gpt_pretrain.py").read_text())
        words = (f"where={where}", f"at={at}") if where else ()
        started[where] = launch(directory, "stuck.py", "--gpus-per-node", "2", *words)
    for where, said in {
        "train_step": "rank 1 has not joined the collective: in training step 5, in get_stuck (code/recipe/stuck.py:",
        "save_checkpoint_and_time": "rank 1 has not joined the collective: while saving after 3 steps, in get_stuck",
    }.items():
        done = started[where].wait()
        result = started[where].read("result.json")
        assert (result["failure"], result["first_failing_rank"]["rank"]) == ("hang", 1), done.stderr
        assert result["reason"].startswith(f"hang: {said}")
        assert "rank 0 waits in" in result["reason"]
    done = started[""].wait()
    assert done.returncode == 0, done.stderr
    assert not list(started[""].attempt.glob("stacks/node-*.json")), "what was suspected has gone on"


# ---- on nodes


@pytest.mark.fault("hang on one of several nodes")
def test_a_hang_on_one_of_two_nodes(tmp_path: Path, slurm_cluster: VirtualCluster, faults: Faults) -> None:
    """One rank of four is stopped; the others, which do not wait for it, go on until Slurm ends them; about 20 s."""
    user = user_of(tmp_path, slurm_cluster)
    limits = f"hang_limit_s = {HANG_S}\nstart_limit_s = {4 * HANG_S}\n"
    (tmp_path / "clusters/virtual.toml").write_text(NODES + limits)
    how = ("+toy.how=stop", "+toy.rank=3", "+toy.backend=none", "+toy.iters=100000", "+toy.seconds=0.05")
    started = json.loads(user.run("submit", "small.py", "--nodes", "2", "--entrypoint", TOY, "--json", *how).stdout)
    run = Path(started["run_dir"])
    record = run / "attempts/000/stacks/node-0001.json"
    wait_until(record.exists, "the watchdog of the second node to write", slurm_cluster)
    (status,) = json.loads(user.run("status", str(run), "--json").stdout)["runs"]
    if not status["over"]:
        assert status["detail"].endswith(f"stacks in {run}/attempts/000/stacks")
        assert "silent: rank 3 is stopped by a signal in training step 5" in status["detail"]
    assert slurm_cluster.wait(started["job"], "COMPLETED", "FAILED") == "FAILED"
    result = json.loads((run / "attempts/000/result.json").read_text())
    assert (result["failure"], result["first_failing_rank"]["rank"]) == ("hang", 3), result
    assert result["reason"].startswith("hang: rank 3 is stopped by a signal in training step 5")
    assert result["first_failing_rank"]["host"] == json.loads(record.read_text())["host"]
    assert not (record.parent / "node-0000.json").exists(), "its ranks made progress"
    silent_s = json.loads(record.read_text())["silent_s"]
    faults.note("hang on one of several nodes", detected_s=silent_s, verdict="hang: rank 3")
