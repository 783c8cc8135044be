"""Runs that look like those of a real training, for browsers and for the pictures of docs/how-to/page.md.

python -m tests.report.shown_runs DIRECTORY     write them, and pages of them
"""

import json
import math
import os
import random
import socket
import sys
from pathlib import Path
from typing import Any

from launcher.contract.process import start_ticks_of
from launcher.rundir import Attempt, RunDirectory
from tests.report.blocks import LAUNCHED
from tests.watch.run_dirs import BEGIN, make_attempt, make_run

TOTAL = 4000
REASON = "rank 11: RuntimeError: CUDA error: uncorrectable ECC error encountered"
SOURCE = {
    "commit": "0f3a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a",
    "branch": "main",
    "changed": ["llama3_8b.py"],
    "diff": "--- a/llama3_8b.py\n+++ b/llama3_8b.py\n@@ -1,2 +1,2 @@\n-lr = 1e-4\n+lr = 3e-4",
}
FAILED: dict[str, Any] = {
    "outcome": "failed",
    "reason": REASON,
    "iteration": 1730,
    "train_iters": TOTAL,
    "loss": 2.9,
    "seconds_per_iteration": 1.21,
    "started": BEGIN,
    "ended": BEGIN + 2130,
    "failure": "gpu memory",
    "evidence": {
        "line": "NVRM: Xid (PCI:0000:0f:00): 48, Double Bit ECC Error",
        "node": "gpu-018",
        "todo": "Have the GPU of this node reset or replaced.",
    },
    "first_failing_rank": {
        "rank": 11,
        "host": "gpu-018",
        "what": "RuntimeError: CUDA error: uncorrectable ECC error encountered",
        "where": "megatron/core/pipeline_parallel/schedules.py:532 in forward_backward_no_pipelining",
        "cause": "program",
    },
    "failed_ranks": [11],
    "missing_ranks": [],
}


def lines(begin: int, end: int, at: float) -> tuple[dict[str, Any], ...]:
    """Iterations whose loss falls, with noise that is the same each time."""
    chance = random.Random(begin)  # noqa: S311 - to repeat a picture, not for secrecy

    def line(step: int) -> dict[str, Any]:
        seconds = 1.2 + chance.random() * 0.02 + (4 if step % 500 == 0 else 0)
        return {
            "iteration": step,
            "train_iters": TOTAL,
            "loss": 11 / step**0.18 + chance.gauss(0, 0.03) + (3 if step == 900 else 0),
            "grad_norm": abs(chance.gauss(1, 0.2)),
            "learning_rate": 3e-4 * min(1, step / 200) * (0.55 + 0.45 * math.cos(math.pi * step / TOTAL)),
            "seconds": seconds,
            "tokens": 131_072,
            "tokens_per_second": 131_072 / seconds,
            "tflops_per_gpu": 600 / seconds,
            "memory_bytes": 50_700_000_000,
            "time": at + 1.2 * (step - begin),
        }

    return tuple(map(line, range(begin, end)))


def timeline(begin: int, end: int, at: float) -> tuple[dict[str, Any], ...]:
    """The start of an attempt and its evaluations."""
    start = (("imports", 14), ("process_groups", 3), ("model", 8), ("train_start", 3), ("first_step", 6))
    events: list[dict[str, Any]] = []
    for name, seconds in start:
        at += seconds
        events.append({"event": name, "time": at, "seconds": seconds})
    for step in range(-(-begin // 500) * 500, end, 500):
        losses = {"lm loss": 11 / max(1, step) ** 0.18 + 0.1}
        events.append({"event": "evaluation", "time": at, "seconds": 12, "iteration": step, "losses": losses})
    return tuple(events)


def prepared(root: Path, run_id: str, start: dict[str, Any] = LAUNCHED) -> RunDirectory:
    """A run of two nodes with everything in its plan that a page shows."""
    run = make_run(root / "llama3-8b" / run_id, start, backend="local", world_size=16)
    plan = {**run.plan, "layout": {"nodes": 2, "ranks_per_node": 8, "parallel": [["TP", 2]]}, "peak_tflops": 989.0}
    plan |= {"source": SOURCE, "recipe": "recipes/llama3_8b_pretrain.py", "cluster": "dgx-h100"}
    plan |= {"overrides": [f"train.train_iters={TOTAL}", "optimizer.lr=3e-4"], "device": "gpu", "runtime": "pyxis"}
    path = ":".join(f"/usr/local/{name}/bin" for name in ("nvidia", "cuda", "mpi", "ucx", "python3.12"))
    variables = (("NCCL_DEBUG", "INFO", "--env", "task"), ("PATH", path, "the image", "image"))
    plan["environment"] = [
        {"name": name, "value": value, "origin": origin, "scope": scope, "overridden": []}
        for name, value, origin, scope in variables
    ]
    (run.path / "plan.json").write_text(json.dumps(plan))
    return run


def attempt(run: RunDirectory, number: int, begin: int, end: int, at: float, result: dict[str, Any] | None) -> Attempt:
    """An attempt with all its records."""
    made = make_attempt(run, number, metrics=lines(begin, end, at), timeline=timeline(begin, end, at), result=result)
    packages = {"torch": "2.11.0+cu130", "transformer-engine": "2.19.0", "python": "3.12.3", "cuda": "13.0"}
    (made.path / "megatron.json").write_text(json.dumps({"core": "0.19.2", "bridge": "0.6.2", "packages": packages}))
    (made.path / "config.yaml").write_text("model:\n  num_layers: 32\n  hidden_size: 4096\n" * 30)
    (made.path / "nodes").write_text("gpu-017\ngpu-018\n")
    made.telemetry.mkdir()
    for node, host in enumerate(("gpu-017", "gpu-018")):
        made.telemetry_record(node).write_text(json.dumps(node_record(node, host, at)))
    if result and result["outcome"] == "failed":
        frames = "\n".join(f'  File "train.py", line {number}' for number in range(12))
        made.log(11).write_text(f"{frames}\n{REASON.partition(': ')[2]}\n")
    return made


def node_record(node: int, host: str, at: float) -> dict[str, Any]:
    """What a node's GPUs did; one of the second node is hot and slow."""

    def gpu(index: int) -> dict[str, Any]:
        bad = node == 1 and index == 3
        clock, heat = (1410.0, 88.0) if bad else (1740.0 + index, 61.0 + index)
        values = {"sm_mhz": clock, "busy_sm_mhz": clock, "memory_mhz": 2619.0, "power_w": 640.0 + index}
        values |= {"temperature_c": heat, "memory_temperature_c": heat + 9, "memory_bytes": 50.7e9}
        ranges = {name: {"min": value, "mean": value, "max": value} for name, value in values.items()}
        throttled = {"hardware thermal": 60} if bad else {}
        named = {"index": index, "uuid": f"GPU-{index}", "address": f"0000:{index}8:00.0", "name": "NVIDIA H100"}
        errors = {"corrected_errors": 0, "uncorrected_errors": 1 if bad else 0}
        return {**named, "samples": 200, "busy_samples": 190, "throttled_samples": throttled, **errors, **ranges}

    steps = range(0, 2000, 20)
    history: dict[str, list[float]] = {"time": [at + step for step in steps], "throttle": [64 * node for _ in steps]}
    history["sm_mhz"] = [1740 - (330 if node and step > 900 else 0) for step in steps]
    history["temperature_c"] = [60 + min(28 if node else 8, step / 40) for step in steps]
    history["power_w"] = [5100 + 40 * math.sin(step / 90) for step in steps]
    history["network_bytes_per_s"] = [3.1e11 + 1e10 * math.sin(step / 70) for step in steps]
    rates = {"min": 0, "mean": 2e10, "max": 4e10}
    adapters = [{"name": "mlx5_0", "sent_bytes_per_s": rates, "received_bytes_per_s": rates, "errors": {}}]
    record = {"version": 1, "node": node, "host": host, "began": at, "time": at + 2000, "interval_s": 10.0}
    record |= {"samples": 200, "cpu_s": 0.4, "why": None, "adapters": adapters, "history": history}
    return {**record, "gpus": [gpu(index) for index in range(8)]}


def failed(root: Path) -> RunDirectory:
    """A run that has failed at iteration 1731."""
    run = prepared(root, "20260920-101500-f41d")
    attempt(run, 0, 1, 1731, BEGIN + 34, FAILED)
    return run


def resumed(root: Path) -> RunDirectory:
    """A run that has failed, was resumed, and has finished."""
    run = prepared(root, "20260921-101500-7e50")
    attempt(run, 0, 1, 1731, BEGIN + 34, FAILED)
    finished = {"outcome": "finished", "reason": None, "iteration": TOTAL, "train_iters": TOTAL, "loss": 2.47}
    finished |= {"seconds_per_iteration": 1.2, "started": BEGIN + 2200, "ended": BEGIN + 5000}
    attempt(run, 1, 1501, TOTAL + 1, BEGIN + 2300, finished)
    with run.journal_file.open("a") as file:
        file.write(json.dumps({**LAUNCHED, "attempt": "001", "time": BEGIN + 2200}) + "\n")
    return run


def running(root: Path) -> RunDirectory:
    """A run of this process, which is at iteration 800."""
    start = {**LAUNCHED, "pid": os.getpid(), "start_ticks": start_ticks_of(os.getpid()), "host": socket.gethostname()}
    run = prepared(root, "20260922-101500-90ab", {**start, "group": os.getpgrp()})
    attempt(run, 0, 1, 801, BEGIN + 34, None)
    for path in (run.attempt(0).metrics, run.attempt(0).timeline):
        os.utime(path)
    return run


RUNS = {"failed": failed, "resumed": resumed, "running": running}


if __name__ == "__main__":
    for make in RUNS.values():
        print(make(Path(sys.argv[1]) / "runs").path)
