"""The result of an attempt: a program that writes result.json from what the ranks left, and prints one word.

    python3 result.py RUN_DIR ATTEMPT WORLD_SIZE STEP_STATUS        -> finished | stopped | failed | diverged

Of a run that keeps going it also writes what comes next, and where that is another attempt, the word is
`requeue:SECONDS` or `successor:SECONDS`, with the time to wait before it.

    python3 result.py --not-continued RUN_DIR ATTEMPT WHY

announces that the other attempt does not follow after all.

A STEP_STATUS of -1 stands for an attempt that Slurm has ended before a verdict. The program is run as a file, in the
image or on the host, after the step has ended; it needs the standard library alone.
"""

import sys
import time
from pathlib import Path
from typing import Optional, cast

if __name__ == "__main__":
    # Run as a file: this directory's modules are reached through their package alone.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from launcher.contract.files import read_object, write_json
from launcher.contract.paths import AttemptPaths, RunPaths
from launcher.contract.records.request import NotifyOptions
from launcher.contract.records.result import AttemptResult, NextAttempt
from launcher.contract.validation import problems
from launcher.contract.verdict import compose
from launcher.job.next_attempt import plan_next


def main(arguments: list[str]) -> int:
    """Compose, write, print the word. The exit status is 0 whatever the word; 2 for wrong arguments."""
    if arguments[:1] == ["--not-continued"] and len(arguments) == 4:
        run = RunPaths(Path(arguments[1]))
        attempt = run.attempt_paths(arguments[2])
        ended = cast("Optional[AttemptResult]", read_object(attempt.result_file))
        if ended is not None:
            _announce(run, attempt, ended, None, not_continued=arguments[3])
        return 0
    try:
        run_dir, attempt_name, world_size, step_status = arguments
        run = RunPaths(Path(run_dir))
        attempt = run.attempt_paths(attempt_name)
        numbers = int(world_size), int(step_status)
        if numbers[0] < 1:
            raise ValueError(f"a world of {world_size} ranks")
        if not attempt.path.is_dir():
            raise ValueError(f"there is no directory {attempt.path}")
    except ValueError as error:
        print(f"verdict: {error}\nusage: result.py RUN_DIR ATTEMPT WORLD_SIZE STEP_STATUS", file=sys.stderr)
        return 2
    result = compose(attempt, *numbers, now=time.time())
    word: str = result["outcome"]
    if numbers[1] >= 0 and _is_superseded(run, attempt):
        # As on a node that Slurm has lost. The owner has judged this attempt, and its decision stays.
        if not attempt.result_file.exists():
            write_json(attempt.result_file, result)
        print(word)
        return 0
    write_json(attempt.result_file, result)
    try:
        following = plan_next(run, attempt, result, numbers[0], killed=numbers[1] < 0)
        if following is not None and following["action"] != "end":
            word = f"{following['action']}:{round(following['delay_s'])}"
    finally:  # the verdict counts, whatever else fails
        print(word, flush=True)
    _announce(run, attempt, result, following)
    return 0


def _announce(
    run: RunPaths,
    attempt: AttemptPaths,
    result: AttemptResult,
    following: "Optional[NextAttempt]",
    *,
    not_continued: str = "",
) -> None:
    """Announce how the attempt ended, where the run asks for that."""
    options = (read_object(run.argv_file) or {}).get("options") or {}
    wanted = options.get("notify")
    if any(problems(wanted, NotifyOptions)):
        return
    from launcher.contract import notify

    said = notify.message(run, attempt.name, result, following, not_continued=not_continued)
    for line in notify.announce(cast(NotifyOptions, wanted), said):
        print(f"notify: {line}", file=sys.stderr)


def _is_superseded(run: RunPaths, attempt: AttemptPaths) -> bool:
    """Return whether the lease names another attempt. Without a lease nothing owns the run, and this attempt counts."""
    lease = read_object(run.lease)
    return lease is not None and lease.get("attempt") not in (None, attempt.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
