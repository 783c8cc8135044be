"""A command in place of a training, as a rank's program (`--entrypoint`): what NeMo-Run's scripts and functions run by.

It runs the words of code/recipe/command.json in code/recipe, once in each rank, and leaves the rank's record.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

from launcher.contract.records.ranks import ExceptionRecord
from launcher.job import rank, record, signals
from launcher.job.errors import UserError

COMMAND = "command.json"
"""`{"words": [...]}`; a first word `python` is the interpreter that runs this program."""

_TICK_S = 0.2


def main() -> int:
    """Run the command; return the exit status: 0 finished or stopped, 2 the request was wrong, 1 it failed."""
    signals.ignore_notices()
    try:
        this = rank.read_rank(os.environ)
        record.refuse_second_start(this)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    end = _run(this)
    record.write_end(this, end)
    if end.exception is not None:
        print(f"error: rank {this.rank}: {end.exception['message']}", file=sys.stderr, flush=True)
    return end.exit_status


def _run(this: rank.Rank) -> record.End:
    recipe = this.run_paths.code / "recipe"
    try:
        words = json.loads((recipe / COMMAND).read_text(encoding="utf-8"))["words"]
        words[0] = sys.executable if words[0] in ("python", "python3") else words[0]
        answered = this.paths.start.exists()
        # Slurm signals every process of a step; what the signal means, sbatch.sh writes into the file `stop`.
        signal.signal(signal.SIGTERM, signal.SIG_IGN if answered else signal.SIG_DFL)
        program = subprocess.Popen(words, cwd=recipe, preexec_fn=_default_signals)
    except (OSError, ValueError, KeyError, IndexError) as error:
        return _failed(f"the command does not start: {error}", recipe / COMMAND)
    status, asked = _wait(program, this.paths.stop)
    if status == -signal.SIGTERM and not asked and answered:
        asked = _stop_in_time(this.paths.stop)
    if asked:
        return record.End("stopped", _reason(this.paths.stop))
    if status == 0:
        return record.End("finished")
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    return _failed(f"{' '.join(words)[:200]} ended with {how}", None)


def _default_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _wait(program: "subprocess.Popen[bytes]", stop: Path) -> tuple[int, bool]:
    """Return the program's status, and whether it was asked to stop; SIGTERM asks it, once."""
    asked = False
    while (status := program.poll()) is None:
        if not asked and stop.exists():
            asked = True
            program.terminate()
        time.sleep(_TICK_S)
    return status, asked


def _stop_in_time(stop: Path) -> bool:
    """Return whether Slurm's signal meant to stop: sbatch.sh says so a moment later."""
    deadline = time.monotonic() + signals.UNANSWERED_S
    while time.monotonic() < deadline:
        if stop.exists():
            return True
        time.sleep(_TICK_S)
    return False


def _reason(stop: Path) -> str:
    try:
        return stop.read_text(encoding="utf-8", errors="replace").strip() or "requested"
    except OSError:  # the file says why, and need not
        return "requested"


def _failed(message: str, where: Optional[Path]) -> record.End:
    exception: ExceptionRecord = {
        "type": "CommandFailed",
        "message": message,
        "where": str(where) if where else None,
        "traceback": "",
    }
    return record.End("failed", exception=exception, cause="program")


if __name__ == "__main__":
    sys.exit(main())
