"""What sampling GPUs and adapters costs a training: step times with and without, in interleaved pairs on one machine.

    python3 benchmarks/gpu_telemetry.py OUT [--pairs 5] [--seconds 8] [--interval 1] [--ranks N]

It needs Python 3.10 and torch, not the launcher's own packages. One process for each GPU multiplies matrices in bf16
and, with several, adds up their results; all run through the whole measurement, and the sampler of the node's watchdog
(launcher/job/watch/telemetry.py) runs in a process of its own in every second part. It samples every second here, ten
times as often as in a run. OUT/telemetry.json has a row for each part, the pairs and the CPU time of a sample, and
OUT/node.json the last record of the node. The status is 1 where the sampler would take more than 1 % of a core in a
run. About 110 s.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RUN_INTERVAL_S = 10.0
WARM_S = 6.0
RANK = """
import json, os, sys, time
import torch, torch.distributed as dist
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
size = 8192 if device.type == "cuda" else 256
if device.type == "cuda":
    torch.cuda.set_device(device)
if world > 1:
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
right = torch.randn(size, size, device=device, dtype=torch.bfloat16)
out = open(sys.argv[1], "w", buffering=1)
going_on = torch.ones(1, device=device)
while going_on.item():
    began = time.time()
    for _ in range(12):
        product = left @ right
    if world > 1:
        dist.all_reduce(product)
    if device.type == "cuda":
        torch.cuda.synchronize()
    out.write(f"{began} {time.time() - began}\\n")
    going_on.fill_(0.0 if os.path.exists(sys.argv[2]) else 1.0)
    if world > 1:
        dist.all_reduce(going_on, op=dist.ReduceOp.MIN)
"""
SAMPLER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from launcher.job.watch import telemetry
sampler = telemetry.Sampler(Path(sys.argv[2]), 0, float(sys.argv[3]), expects_gpus=True)
sampler.start()
time.sleep(float(sys.argv[4]))
sampler.stop(5)
"""


def start_ranks(out: Path, ranks: int) -> "list[subprocess.Popen[bytes]]":
    """Start the processes that compute until the file `over` is there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    started = []
    for rank in range(ranks):
        environ = {**os.environ, "RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
        environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        argv = [sys.executable, "-c", RANK, str(out / f"steps-{rank}"), str(out / "over")]
        started.append(subprocess.Popen(argv, env=environ))
    return started


def steps_of(out: Path) -> list[tuple[float, float]]:
    """Return when each step of the first rank began, and how long it took."""
    path = out / "steps-0"
    lines = path.read_text().splitlines()[:-1] if path.exists() else []
    return [(float(began), float(seconds)) for began, seconds in (line.split() for line in lines)]


def part(out: Path, seconds: float, interval_s: float, *, sampled: bool) -> dict[str, Any]:
    """Wait for one part of the measurement, with or without the sampler; return its step times."""
    record = out / "telemetry" / "0000.json"
    process = None
    if sampled:
        argv = [sys.executable, "-S", "-E", "-B", "-c", SAMPLER, str(ROOT), str(record)]
        process = subprocess.Popen([*argv, str(interval_s), str(seconds)])
        time.sleep(0.5)  # its start is not measured
    began = time.time()
    time.sleep(seconds - (0.5 if sampled else 0.0))
    ended = time.time()
    if process is not None:
        process.wait(timeout=30)
    steps = [took for at, took in steps_of(out) if began <= at and at + took <= ended]
    if not steps:
        sys.exit("no step was completed in a part of the measurement")
    row: dict[str, Any] = {"sampled": sampled, "steps": len(steps), "median_s": statistics.median(steps)}
    row |= {"mean_s": statistics.fmean(steps), "most_s": max(steps)}
    if sampled:
        found = json.loads(record.read_text())
        row |= {"samples": found["samples"], "cpu_s": found["cpu_s"], "why": found["why"]}
    return row


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each part takes")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between samples")
    parser.add_argument("--ranks", type=int, help="default: the number of GPUs")
    options = parser.parse_args()
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    ranks = options.ranks or len(list(Path("/dev").glob("nvidia[0-9]*"))) or 1
    processes = start_ranks(out, ranks)
    rows = []
    try:
        limit = time.monotonic() + 60
        while len(steps_of(out)) < 20 and time.monotonic() < limit:
            if any(process.poll() is not None for process in processes):
                sys.exit("a rank has ended")
            time.sleep(0.2)
        time.sleep(WARM_S)
        for number in range(options.pairs):
            # The order alternates: clocks that fall as a machine warms up favour neither.
            for sampled in (True, False) if number % 2 else (False, True):
                rows.append(part(out, options.seconds, options.interval, sampled=sampled))
                print(json.dumps(rows[-1]), flush=True)
    finally:
        (out / "over").touch()
        for process in processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
    return summary(out, rows, ranks)


def summary(out: Path, rows: list[dict[str, Any]], ranks: int) -> int:
    """Print and write what the pairs say; return the exit status."""
    ratios = []
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        with_it, without = (first, second) if first["sampled"] else (second, first)
        ratios.append(with_it["mean_s"] / without["mean_s"])
    plain = [row["mean_s"] for row in rows if not row["sampled"]]
    sampled = [row for row in rows if row["sampled"]]
    a_sample_s = sum(row["cpu_s"] for row in sampled) / sum(row["samples"] for row in sampled)
    found = {
        "ranks": ranks,
        "rows": rows,
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        "noise": (max(plain) - min(plain)) / statistics.fmean(plain),
        "cpu_s_of_a_sample": a_sample_s,
        "core_share_in_a_run": a_sample_s / RUN_INTERVAL_S,
    }
    (out / "telemetry.json").write_text(json.dumps(found, indent=1))
    node = out / "telemetry" / "0000.json"
    (out / "node.json").write_text(node.read_text())
    print(
        f"step time with / without: {', '.join(f'{ratio:.4f}' for ratio in ratios)}; median {found['median_ratio']:.4f}"
    )
    print(f"spread of the parts without: {found['noise']:.2%}")
    print(f"CPU time of a sample: {a_sample_s * 1000:.2f} ms, {found['core_share_in_a_run']:.3%} of a core in a run")
    return 0 if found["core_share_in_a_run"] <= 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
