"""Kinds of hang with real collectives on the GPUs of one machine, watched as in a job: which rank is named, and when.

    python3 benchmarks/gpu_hangs.py OUT [--backend nccl] [--ranks 2] [--hang-limit 10] [KIND ...]

It needs Python 3.10 and torch, not the launcher's own packages: each run has the files of a run directory, the ranks
are tests/toy/distributed.py below a shell as of step.sh, and the watchdog and the verdict are the launcher's own. Below
OUT each kind has its run directory; the table is printed, and the rows are OUT/hangs.json. About 30 s for each kind.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from launcher.job.watch import heartbeat  # noqa: E402

KINDS = ("stop", "loop", "gil", "loader", "skip", "other", "save", "none")
SHELL = """
echo "$$ $RANK" >"$LAUNCHER_HEARTBEATS/shell-$LOCAL_RANK"
"$@" &
wait $!
status=$?
printf '%s %s %s\\n' "$status" "$(date +%s.%N)" "$(hostname)" >"$LAUNCHER_RUN_DIR/attempts/000/ranks/000$RANK.exit"
"""


def prepare(directory: Path, kind: str, backend: str, limit_s: float, ranks: int) -> Path:
    """Write the run directory of one kind."""
    for part in ("code", "attempts/000/ranks", "attempts/000/logs", "attempts/000/stacks"):
        (directory / part).mkdir(parents=True)
    (directory / "code/launcher").symlink_to(ROOT / "launcher")
    (directory / "code/entrypoint.py").write_bytes((ROOT / "tests/toy/distributed.py").read_bytes())
    told = {"toy.how": kind, "toy.backend": backend, "toy.rank": ranks - 1, "toy.iters": 40, "toy.seconds": 0.05}
    limits = dict.fromkeys(("hang_limit_s", "save_limit_s", "evaluation_limit_s"), limit_s)
    request = {
        "overrides": [{"key": key, "text": f"{key}={value}", "value": value} for key, value in told.items()],
        "options": {"hang_limits": {**limits, "start_limit_s": 120, "first_step_limit_s": 120}},
    }
    (directory / "argv.json").write_text(json.dumps(request))
    return directory


def run_kind(run: Path, ranks: int) -> dict[str, Any]:
    """Start the ranks and the watchdog, wait for their end as srun does, and return what was found."""
    attempt = run / "attempts/000"
    memory = Path(f"/dev/shm/launcher-{os.geteuid()}-benchmark-{os.getpid()}")  # noqa: S108
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
    end = time.monotonic() + 150
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
    metrics = (attempt / "metrics.jsonl").read_text().splitlines() if (attempt / "metrics.jsonl").exists() else []
    first = result["first_failing_rank"] or {}
    return {
        "outcome": result["outcome"],
        "failure": result["failure"],
        "rank": first.get("rank"),
        "reason": result["reason"],
        "seconds": round(ended - json.loads(metrics[-1])["time"], 1) if metrics else None,
        "files": sorted(path.name for path in (attempt / "stacks").iterdir()),
    }


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
    parsed = parser.parse_args()
    parsed.out.mkdir(parents=True, exist_ok=True)
    print(f"a count takes {seconds_per_count(parsed.out / 'count') * 1e6:.2f} microseconds", flush=True)
    rows = []
    for kind in parsed.kinds:
        run = prepare((parsed.out / kind).resolve(), kind, parsed.backend, parsed.hang_limit, parsed.ranks)
        row = {"kind": kind, **run_kind(run, parsed.ranks)}
        rows.append(row)
        print(f"{kind:8} {row['outcome']:9} {row['failure']} rank {row['rank']} {row['seconds']} s: {row['reason']}")
        print(f"         {' '.join(row['files'])}", flush=True)
    (parsed.out / "hangs.json").write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
