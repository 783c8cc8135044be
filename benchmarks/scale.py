"""What an attempt of 100, 1,000 and 10,000 ranks asks of its file server.

    python benchmarks/scale.py [--ranks 100,1000,10000] [--delays 0.1,0.5,1] [--no-start]

The end of each rank is the launcher's own code: the rank's record (launcher/job/record.py) and the last lines of
step.sh; then the verdict is composed over these files (launcher/job/result.py), of an attempt that has finished and of
one in which a rank of each node has failed. Calls that a server answers are counted (tests/support/file_calls.py), and
for the verdict each is delayed by so many milliseconds, as a busy parallel file system would. The start of a rank is
one real rank on this machine under strace, up to the first line of a recipe's `configure()`: its calls below the run's
directory, times the number of ranks.

Calls of ranks come from all nodes at once. Seconds at the server: all of them, one after the other.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from launcher.contract.paths import RunPaths  # noqa: E402
from launcher.contract.records.ranks import ExceptionRecord  # noqa: E402
from launcher.job import record, result  # noqa: E402
from launcher.job.rank import Rank  # noqa: E402
from tests.support.file_calls import FileCalls  # noqa: E402

PER_NODE = 8
TARGETS = {"end of a rank": 4, "start of a rank": 300}
"""The most calls of one rank."""
FAILED: ExceptionRecord = {"type": "ValueError", "message": "bad", "where": "x.py:1 in f", "traceback": "x" * 3000}
CALL = re.compile(r"^\d+\s+(?!getcwd)(\w+)\((?:AT_FDCWD, )?\"([^\"]*)\"")


@dataclass(frozen=True)
class Ended:
    """What the ends of an attempt's ranks and the verdict on it cost."""

    ranks: int
    ends: Mapping[str, int]
    verdict: Mapping[str, int]
    verdict_s: float
    word: str


def make_run(directory: Path, ranks: int) -> RunPaths:
    """Make the directory of a run whose ranks are about to end."""
    run = RunPaths(directory / "run")
    attempt = run.attempt_paths("000")
    for path in (attempt.logs, attempt.ranks, attempt.stacks):
        path.mkdir(parents=True)
    run.argv_file.write_text('{"options": {}}')
    attempt.nodes.write_text("".join(f"n{node}\n" for node in range(ranks // PER_NODE)))
    return run


def end_ranks(run: RunPaths, ranks: int, *, failed: bool) -> Mapping[str, int]:
    """Let all ranks end, where `failed` one of each node with an error; return the calls by kind."""
    with FileCalls(run.path) as calls:
        for number in range(ranks):
            local, node = number % PER_NODE, number // PER_NODE
            rank = Rank(number, local, ranks, PER_NODE, node, "n0:29500", run.path, "000")
            record.refuse_second_start(rank)
            bad = failed and local == PER_NODE - 1
            end = record.End("failed", None, 5, FAILED, "program") if bad else record.End("finished", iteration=5)
            record.write_end(rank, end)
            # As step.sh: bash opens the file of the node and writes a line.
            line = {"rank": number, "status": end.exit_status, "time": time.time(), "host": f"n{node}"}
            with rank.paths.node_ends(node).open("a") as file:
                file.write(f"\n{json.dumps(line)}\n")
    return calls.counts


def judge(run: RunPaths, ranks: int, delay_s: float) -> tuple[Mapping[str, int], float, str]:
    """Compose the verdict with calls that are delayed; return the calls by kind, the seconds and the word."""
    said = io.StringIO()
    began = time.perf_counter()
    with FileCalls(run.path, delay_s=delay_s) as calls, contextlib.redirect_stdout(said):
        result.main([str(run.path), "000", str(ranks), "0"])
    return calls.counts, time.perf_counter() - began, said.getvalue().strip()


def ended(ranks: int, delay_s: float = 0.0, *, failed: bool = False) -> Ended:
    """Let an attempt of so many ranks end, and judge it."""
    with tempfile.TemporaryDirectory() as directory:
        run = make_run(Path(directory), ranks)
        ends = end_ranks(run, ranks, failed=failed)
        counts, seconds, word = judge(run, ranks, delay_s)
    return Ended(ranks, ends, counts, seconds, word)


def traced_start() -> Mapping[str, int]:
    """Return the calls below the run's directory of one rank's start, by kind. Exits where strace is missing."""
    from benchmarks.rank_startup import environment
    from benchmarks.rank_startup import make_run as make_code

    if shutil.which("strace") is None:
        sys.exit("strace is not installed; --no-start leaves the start of a rank out")
    with tempfile.TemporaryDirectory() as directory:
        run = make_code(Path(directory) / "run", "auto")
        trace = Path(directory) / "trace"
        command = ["strace", "-f", "-qq", "-s", "4096", "-e", "trace=%file,fsync", "-o", str(trace)]
        command += [sys.executable, str(run / "code/entrypoint.py")]
        done = subprocess.run(command, cwd=run, env=environment(run), capture_output=True, text=True, check=False)
        if "REACHED" not in done.stdout:
            sys.exit(f"the rank did not reach its recipe:\n{done.stderr[-2000:]}")
        counts: Counter[str] = Counter()
        for line in trace.read_text(errors="replace").splitlines():
            found = CALL.match(line)
            if found is not None and os.path.join("/", found[2]).startswith(str(run)):  # noqa: PTH118
                counts[kind_of(found[1], line)] += 1
        counts["files of byte code"] = len(list(run.rglob("*.pyc")))
    return dict(sorted(counts.items()))


def kind_of(name: str, line: str) -> str:
    """Return the kind of a system call, as FileCalls names it."""
    if name in ("open", "openat"):
        return "list" if "O_DIRECTORY" in line else "create" if "O_CREAT" in line else "open"
    return "stat" if name in ("newfstatat", "stat", "lstat", "access", "readlink", "statx", "faccessat2") else name


def shown(counts: Mapping[str, int]) -> str:
    """Return counts as words."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def main() -> int:
    """Print the tables; exit status 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="100,1000,10000")
    parser.add_argument("--delays", default="0.1,0.5,1", help="milliseconds a call")
    parser.add_argument("--no-start", action="store_true", help="leave out the start of a rank, which needs torch")
    options = parser.parse_args()
    delays = [float(text) for text in options.delays.split(",")]
    at = "  ".join(f"{f'{delay:g} ms':>9}" for delay in delays)
    missed = False
    start = {} if options.no_start else traced_start()
    if start:
        total = sum(count for name, count in start.items() if name != "files of byte code")
        missed |= total > TARGETS["start of a rank"]
        print(f"start of a rank: {total} calls below the run (target {TARGETS['start of a rank']}): {shown(start)}")
    print(f"{'':34} {'ranks':>7} {'calls':>9}  seconds at  {at}")
    for ranks in (int(text) // PER_NODE * PER_NODE for text in options.ranks.split(",")):
        if start:
            row(
                "starts of all ranks, at the server",
                ranks,
                total * ranks,
                [total * ranks * each / 1e3 for each in delays],
            )
        for failed in (False, True):
            found = [ended(ranks, delay / 1e3, failed=failed) for delay in delays]
            ends = sum(found[0].ends.values())
            missed |= ends > TARGETS["end of a rank"] * ranks
            if not failed:
                row("ends of all ranks, at the server", ranks, ends, [ends * each / 1e3 for each in delays])
                row("  of one rank", 1, ends // ranks, [ends / ranks * each / 1e3 for each in delays])
                print(f"    {shown(found[0].ends)}")
            name = f"verdict: {found[0].word} (measured)"
            row(name, ranks, sum(found[0].verdict.values()), [each.verdict_s for each in found])
            print(f"    {shown(found[0].verdict)}", flush=True)
    return int(missed)


def row(name: str, ranks: int, calls: int, seconds: list[float]) -> None:
    """Print a line of the table."""
    print(f"{name:34} {ranks:>7,} {calls:>9,}  {'':10}  {'  '.join(f'{each:9.3f}' for each in seconds)}")


if __name__ == "__main__":
    sys.exit(main())
