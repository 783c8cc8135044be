"""The process around nsys: `python3 nsys.py COMMAND ...`, run by step.sh on the ranks that are captured.

It needs only the standard library. It asks this nsys for its features, starts the command under it, and stays: nsys may
wait endlessly for processes that a program leaves behind, or hang while it writes its report (both were observed). When
the program has ended, nsys gets a time limit. Then the report is exported to SQLite and its rows are counted, because
an exit status of 0 and an existing file prove nothing. The result is in `profiles/STEM.nsys.json`.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # run as a file, in the run's code/

from launcher.contract import rank_ends
from launcher.contract.files import read_object, write_json
from launcher.contract.paths import AttemptPaths, RunPaths
from launcher.contract.profiles import find_nsys, stem
from launcher.contract.rank_ends import RankLines
from launcher.contract.records.captures import NsysRecord
from launcher.contract.records.ranks import RankRecord
from launcher.job.profiling import nsys_command, nsys_report
from launcher.job.profiling.processes import Supervised, adopt_orphans

_FINISH_TIMEOUT_S = 900
_CANNOT_START = 2


def main(command: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Run the command under nsys; return its exit status, or that of the rank where nsys had to be ended."""
    run_dir, attempt, rank = Path(environ["LAUNCHER_RUN_DIR"]), environ["LAUNCHER_ATTEMPT"], int(environ["RANK"])
    node = int(environ["NODE_RANK"])
    paths = RunPaths(run_dir).attempt_paths(attempt)
    directory = paths.profiles
    directory.mkdir(parents=True, exist_ok=True)
    request = read_object(RunPaths(run_dir).argv_file) or {}
    options = (request.get("options") or {}).get("profiler") or {}
    nsys_options = options.get("nsys") or {}
    name = stem("nsys", environ.get("SLURM_JOB_ID") or "local", attempt, node, rank)
    record = directory / f"{name}.nsys.json"
    program = str(nsys_options.get("program") or "nsys")
    found = find_nsys(program)
    if found is None or record.exists():
        why = f"{program!r} is not in the image" if found is None else f"{record.name} exists and is not overwritten"
        return record_refusal(paths, node, rank, record, f"nsys cannot profile this rank: {why}")
    nsys = nsys_command.probe(found)
    report = directory / f"{name}.nsys-rep"
    argv, left_out = nsys_command.compose(
        found, nsys, report.with_suffix(""), nsys_options, environ, options.get("ranks") or ()
    )
    for text in left_out:
        print(f"profiler: {text}", file=sys.stderr, flush=True)
    limit_s = float(options.get("finish_timeout_s") or _FINISH_TIMEOUT_S)
    started = time.monotonic()
    adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        # The signal is meant for the program: this process must stay for the report.
        signal.signal(number, lambda *_: None)
    supervised = Supervised(argv, list(command), directory / f".{name}.pid")
    status = supervised.wait(limit_s)
    if not supervised.started:
        what = f"it ended with status {status} and did not start the program; its messages are in the rank's log"
        return record_refusal(paths, node, rank, record, f"nsys {nsys.version}: {what}")
    content: NsysRecord = {
        "version": 1,
        "rank": rank,
        "nsys": nsys.version,
        "argv": argv,
        "status": status,
        "ended_by_launcher": supervised.ended,
        "left_out": left_out,
        "seconds_after_program": supervised.seconds_after_program,
        **nsys_report.examine(found, report, limit_s=limit_s, ended=supervised.ended, after_s=limit_s),
        "seconds": time.monotonic() - started,
    }
    write_json(record, content)
    return rank_status(paths, node, rank, status)


def rank_status(paths: AttemptPaths, node: int, rank: int, status: int) -> int:
    """Return the exit status that counts: a rank that ended well did so, whatever happened to nsys after it."""
    record = rank_ends.of_node(paths, node).get(rank, RankLines()).record
    outcome = record["outcome"] if record else None
    return 0 if outcome in ("finished", "stopped") else status or int(outcome == "failed")


def record_refusal(paths: AttemptPaths, node: int, rank: int, record: Path, message: str) -> int:
    """Write the rank's record of a program that was not started, so that the run's result can give the reason."""
    end: RankRecord = {
        "version": 1,
        "rank": rank,
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "time": time.time(),
        "outcome": "failed",
        "reason": None,
        "iteration": None,
        "exception": {"type": "UserError", "message": message, "where": "--nsys", "traceback": ""},
        "cause": "user",
    }
    if not record.exists():
        nothing: NsysRecord = {"version": 1, "rank": rank, "file": None, "why": message}
        write_json(record, nothing)
    rank_ends.append(paths, node, end)
    print(f"error: rank {rank}: {message}", file=sys.stderr, flush=True)
    return _CANNOT_START


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
