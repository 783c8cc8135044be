"""Starts ranks as a step script does: plain processes with the environment of ranks, in a run directory."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.discovery.code_files import code_files
from launcher.discovery.recipe import read_recipe
from launcher.discovery.shipped_code import shipped_code
from tests.job.override_records import override_records
from tests.support.limits import seconds
from tests.support.rank_ends import record_of
from tests.support.warm import warm_python

ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, Any] = {
    "device": "auto",
    "load": False,
    "init": None,
    "profiler": None,
    "user_env": [],
    "network": None,
    "numa_binding": False,
    "verify": "budget",
    "keep_going": None,
    "hang_limits": {
        "hang_limit_s": 300,
        "start_limit_s": 1800,
        "first_step_limit_s": 1800,
        "evaluation_limit_s": 1800,
        "save_limit_s": 1800,
    },
}
_PROFILER = {"extension": "", "finish_timeout_s": 900, "nsys": None, "own": None}
_NETWORK = {"nvlink_domain": False, "nics_per_node": None, "gdr": True, "sharp": False}


@dataclass
class Run:
    """A run directory, and what its attempts left there."""

    path: Path

    def attempt(self, name: str = "000") -> Path:
        return self.path / "attempts" / name

    def lines(self, file: str, attempt: str = "000") -> list[dict[str, Any]]:
        path = self.attempt(attempt) / file
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def metrics(self, attempt: str = "000") -> dict[int, dict[str, Any]]:
        return {line["iteration"]: line for line in self.lines("metrics.jsonl", attempt)}

    def losses(self, attempt: str = "000") -> dict[int, float]:
        return {iteration: line["loss"] for iteration, line in self.metrics(attempt).items()}

    def events(self, attempt: str = "000") -> list[str]:
        return [line["event"] for line in self.lines("timeline.jsonl", attempt)]

    def end(self, rank: int, attempt: str = "000") -> dict[str, Any]:
        return record_of(self.attempt(attempt), rank)

    def log(self, rank: int, attempt: str = "000") -> str:
        return (self.attempt(attempt) / "logs" / f"rank-{rank:04d}.log").read_text()

    def copy(self, path: Path) -> "Run":
        shutil.copytree(self.path, path)
        return Run(path)


def make_run(
    path: Path,
    recipe: str | Mapping[str, str] = "vanilla_gpt_pretrain.py",
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> Run:
    """Write a run directory with the shipped recipes and `files` (name: text) beside them."""
    code = path / "code"
    shipped = read_recipe("vanilla_gpt_pretrain.py", ROOT / "recipes")
    for target, source in code_files(shipped_code(shipped), None, ROOT):
        (code / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, code / target)
    for name, text in (files or {}).items():
        (code / "recipe" / name).write_text(text)
    options = {**SETTINGS, **(settings or {})}
    for name, rest in (("profiler", _PROFILER), ("network", _NETWORK)):
        if options[name] is not None:
            options[name] = {**rest, **options[name]}
    request = {
        "version": 1,
        "recipe": {"path": f"recipe/{recipe}", "function": "configure"} if isinstance(recipe, str) else dict(recipe),
        "arguments": {},
        "overrides": override_records(overrides),
        "options": options,
    }
    (path / "argv.json").write_text(json.dumps(request))
    return Run(path)


@dataclass
class Ranks:
    """The processes of one attempt; leaving the block ends those that are still there."""

    run: Run
    count: int
    attempt: str = "000"
    environment: Mapping[str, str] = field(default_factory=dict)
    nodes: int = 1
    """Into how many nodes the ranks are divided; all are this machine."""
    python: str = sys.executable
    cold: bool = False
    """Start real interpreters, where the start itself is looked at, and not forks of one with the training stack."""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> "Ranks":
        logs = self.run.attempt(self.attempt) / "logs"
        logs.mkdir(parents=True)
        port = str(free_port())
        python = self.python if self.cold else warm_python(self.python)
        for rank in range(self.count):
            own = rank_environment(self.run.path, rank, self.count, self.attempt, port, self.nodes)
            environment = {**own, **self.environment}
            with (logs / f"rank-{rank:04d}.log").open("wb") as log:
                command = [python, str(self.run.path / "code" / "entrypoint.py")]
                process = subprocess.Popen(command, cwd=self.run.path, env=environment, stdout=log, stderr=log)
            self.processes.append(process)
        return self

    def __exit__(self, *_error: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def wait(self, timeout_s: float = 180) -> list[int]:
        """Exit statuses of all ranks; a rank that outlives the timeout fails the test with the tails of all logs."""
        end = time.monotonic() + seconds(timeout_s)
        try:
            return [process.wait(max(0.1, end - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s\n{self.tails()}") from None

    def wait_for(self, ready: Callable[[], bool], timeout_s: float = 150) -> None:
        """Wait until `ready()`; fails when the ranks end before."""
        end = time.monotonic() + seconds(timeout_s)
        while not ready():
            assert time.monotonic() < end, f"not reached in {timeout_s} s\n{self.tails()}"
            assert any(process.poll() is None for process in self.processes), f"ended too early\n{self.tails()}"
            time.sleep(0.05)

    def tails(self, lines: int = 25) -> str:
        """The ends of all logs, for a failing test's message."""
        texts = [(rank, self.run.log(rank, self.attempt).splitlines()[-lines:]) for rank in range(self.count)]
        return "\n".join(f"--- rank {rank}\n" + "\n".join(text) for rank, text in texts)


def train(
    run: Run,
    ranks: int = 2,
    attempt: str = "000",
    expect: int | None = 0,
    python: str = sys.executable,
    cold: bool = False,
    nodes: int = 1,
) -> list[int]:
    """Run one attempt to its end; every rank must leave with `expect` (None: anything goes)."""
    with Ranks(run, ranks, attempt, nodes=nodes, python=python, cold=cold) as running:
        statuses = running.wait()
        assert expect is None or statuses == [expect] * ranks, f"statuses {statuses}\n{running.tails()}"
        return statuses


def rank_environment(
    run_dir: Path, rank: int, count: int, attempt: str = "000", port: str = "29500", nodes: int = 1
) -> dict[str, str]:
    """The whole environment of a rank: nothing is inherited but what finds the programs."""
    of_node = count // nodes
    names = {
        "RANK": rank,
        "LOCAL_RANK": rank % of_node,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": of_node,
        "NODE_RANK": rank // of_node,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "LAUNCHER_RUN_DIR": run_dir,
        "LAUNCHER_ATTEMPT": attempt,
        "OMP_NUM_THREADS": 1,
    }
    found = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**found, **{name: str(value) for name, value in names.items()}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
