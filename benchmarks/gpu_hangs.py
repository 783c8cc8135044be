"""Kinds of hang with real collectives on the GPUs of one machine, watched as in a job: which rank is named, and when.

    python3 benchmarks/gpu_hangs.py OUT [KIND ...] [--backend nccl] [--ranks 2] [--hang-limit 10] [--at-once N]

It needs Python 3.10 and torch, not the launcher's own packages: each run has the files of a run directory, the ranks
are tests/toy/distributed.py below a shell as of step.sh, and the watchdog and the verdict are the launcher's own. Below
OUT each kind has its run directory; the table is printed, and the rows are OUT/hangs.json. About 30 s for each kind;
with --at-once N so many runs share the GPUs. It ends with status 1 where a row is not as it has to be: the
rank that hangs named, the end within 30 s of the last progress, stacks of all ranks and dumps of those that can answer.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from launcher.contract.paths import FLIGHT_RECORDER  # noqa: E402
from launcher.job.watch import heartbeat  # noqa: E402

KINDS = ("stop", "loop", "gil", "loader", "skip", "other", "save", "join", "start", "none")
END_S = 30.0
"""Within this time after the last progress an attempt has to be over."""
LIMIT_S = 200.0
SHELL = """
echo "$$ $RANK" >"$LAUNCHER_HEARTBEATS/shell-$LOCAL_RANK"
"$@" &
wait $!
status=$?
printf '\\n{"rank": %d, "status": %d, "time": %s, "host": "%s"}\\n' "$RANK" "$status" "$(date +%s.%N)" "$(hostname)" \\
    >>"$LAUNCHER_RUN_DIR/attempts/000/ranks/node-0000.jsonl"
"""


def prepare(directory: Path, kind: str, backend: str, limit_s: float, ranks: int) -> Path:
    """Write the run directory of one kind."""
    for part in ("code", "attempts/000/ranks", "attempts/000/logs", "attempts/000/stacks"):
        (directory / part).mkdir(parents=True)
    (directory / "code/launcher").symlink_to(ROOT / "launcher")
    (directory / "code/entrypoint.py").write_bytes((ROOT / "tests/toy/distributed.py").read_bytes())
    told = {"toy.how": kind, "toy.backend": backend, "toy.rank": ranks - 1, "toy.iters": 40, "toy.seconds": 0.05}
    limits = dict.fromkeys(("hang_limit_s", "save_limit_s", "evaluation_limit_s"), limit_s)
    start_limit_s = 2 * limit_s if kind in ("join", "start") else 120
    request = {
        "overrides": [{"key": key, "text": f"{key}={value}", "value": value} for key, value in told.items()],
        "options": {"hang_limits": {**limits, "start_limit_s": start_limit_s, "first_step_limit_s": 120}},
    }
    (directory / "argv.json").write_text(json.dumps(request))
    return directory


def run_kind(run: Path, ranks: int) -> dict[str, Any]:
    """Start the ranks and the watchdog, wait for their end as srun does, and return what was found."""
    attempt = run / "attempts/000"
    memory = Path(f"/dev/shm/launcher-{os.geteuid()}-benchmark-{os.getpid()}-{run.name}")  # noqa: S108
    memory.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": port, "LAUNCHER_RUN_DIR": str(run), "LAUNCHER_ATTEMPT": "000"}
    shared |= {heartbeat.DIRECTORY: str(memory), "PYTHONUNBUFFERED": "1"}
    processes: list[subprocess.Popen[bytes]] = []
    for rank in range(ranks):
        environ = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with (attempt / f"logs/rank-{rank:04d}.log").open("wb") as log:
            command = ["bash", "-c", SHELL, "bash", sys.executable, str(run / "code/entrypoint.py")]
            group = processes[0].pid if processes else 0
            processes.append(
                subprocess.Popen(
                    command, cwd=run, env=environ, stdout=log, stderr=log, preexec_fn=partial(os.setpgid, 0, group)
                )
            )
    program = ROOT / "launcher/job/watch/watchdog.py"
    environ = {**os.environ, **shared, "RANK": "0", "LOCAL_RANK": "0"}
    watchdog = subprocess.Popen([sys.executable, "-S", "-E", "-B", str(program)], env=environ)
    end = time.monotonic() + LIMIT_S
    while watchdog.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    ended = time.time()
    if watchdog.poll() is None:
        os.killpg(processes[0].pid, signal.SIGKILL)
    for process in processes:
        process.wait()
    watchdog.wait()
    verdict = [sys.executable, str(ROOT / "launcher/job/result.py"), str(run), "000", str(ranks), "1"]
    subprocess.run(verdict, check=True, stdout=subprocess.DEVNULL)
    return found_in(attempt, ended)


def found_in(attempt: Path, ended: float) -> dict[str, Any]:
    """Return the verdict of an attempt, and what its stacks hold."""
    result = json.loads((attempt / "result.json").read_text())
    record = attempt / "stacks/node-0000.json"
    seen = json.loads(record.read_text()) if record.exists() else None
    first = result["first_failing_rank"] or {}
    return {
        "outcome": result["outcome"],
        "failure": result["failure"],
        "rank": first.get("rank"),
        "reason": result["reason"],
        "seconds": round(seen["silent_s"] + ended - seen["time"], 1) if seen else None,
        "stacks": [sight["rank"] for sight in seen["ranks"] if sight["stack"]] if seen else [],
        "files": sorted(path.name for path in (attempt / "stacks").iterdir()),
    }


def wrong_in(kind: str, row: dict[str, Any], ranks: int) -> Iterator[str]:
    """Yield what is not as it has to be."""
    stuck = ranks - 1
    if kind == "none":
        if row["outcome"] != "finished" or row["files"]:
            yield "an alarm without a fault"
        return
    if (row["outcome"], row["failure"], row["rank"]) != ("failed", "hang", stuck):
        yield f"rank {stuck} is not named"
    if row["seconds"] is None or row["seconds"] > END_S:
        yield f"not over within {END_S:.0f} s of the last progress"
    if row["stacks"] != [rank for rank in range(ranks) if kind != "start" or rank != stuck]:
        yield "stacks are missing"
    silent = {"gil": [stuck], "join": range(ranks), "start": range(ranks)}.get(kind, [])
    dumps = {f"{FLIGHT_RECORDER}{rank}" for rank in range(ranks) if rank not in silent}
    if missing := dumps.difference(row["files"]):
        yield f"no {', '.join(sorted(missing))}"


def seconds_per_count(directory: Path) -> float:
    """Return what one step costs a rank: entering it, and counting it."""
    directory.mkdir()
    beat = heartbeat.Heartbeat(heartbeat.Counts(directory, 1), 0)
    beat.begin(0)
    began = time.perf_counter()
    for _ in range(100_000):
        beat.enter("training step")
        beat.step_done()
    return (time.perf_counter() - began) / 100_000


def main() -> int:
    """Run the kinds one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("kinds", nargs="*", default=KINDS)
    parser.add_argument("--backend", default="nccl")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--hang-limit", type=float, default=10.0)
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="so many runs share the GPUs")
    parsed = parser.parse_args()
    parsed.out.mkdir(parents=True, exist_ok=True)
    print(f"a count takes {seconds_per_count(parsed.out / 'count') * 1e6:.2f} microseconds", flush=True)
    runs = [
        prepare((parsed.out / kind).resolve(), kind, parsed.backend, parsed.hang_limit, parsed.ranks)
        for kind in parsed.kinds
    ]
    rows = []
    with ThreadPoolExecutor(parsed.at_once) as pool:
        for run, found in zip(runs, pool.map(lambda run: run_kind(run, parsed.ranks), runs), strict=True):
            row = {"kind": run.name, **found, "wrong": list(wrong_in(run.name, found, parsed.ranks))}
            rows.append(row)
            print(f"{run.name:8} {row['outcome']:9} {row['failure']} rank {row['rank']} {row['seconds']} s")
            print(f"         {row['reason']}")
            print(f"         {' '.join(row['files'])}")
            print(f"         {'; '.join(row['wrong']) or 'as it has to be'}", flush=True)
            (parsed.out / "hangs.json").write_text(json.dumps(rows, indent=1))
    return 1 if any(row["wrong"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
