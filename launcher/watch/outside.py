"""What srun, Slurm and the container runtime have said of an attempt, in one line."""

import re
from collections.abc import Sequence

from launcher.contract.failures import Level, classify
from launcher.contract.paths import AttemptPaths, RunPaths
from launcher.contract.patterns import later
from launcher.watch.tail import last_lines

_READ_BYTES = 64 << 10
_SHOWN = 240
_TELLING = later(r"\b(error|fatal)\b|\[ERROR\]|retrying|^launcher: ", re.IGNORECASE)
"""Lines that no rule knows and that say more than `importing docker image`."""
_ENDED = later(r"srun: error: \S+: tasks? |Job step aborted|Terminat(ing|ed)|CANCELLED AT")
"""What srun says of any step that has failed."""


def outside_words(run: RunPaths, attempt: AttemptPaths | None) -> str | None:
    """Return the line of srun.log, else of sbatch.log, that says most; None where they say nothing of that kind."""
    logs = ([attempt.srun_log] if attempt else []) + [run.sbatch_log]
    return next((words for log in logs if (words := _telling(last_lines(log, _READ_BYTES)))), None)


def _telling(lines: Sequence[str]) -> str | None:
    found = classify("\n".join(lines))
    if found is not None and found.level < Level.CANCELLED:
        return _shortened(found.line)
    known = [line for line in lines if _TELLING.search(line) and not _ENDED.search(line)]
    return _shortened(known[-1].strip()) if known else None


def _shortened(line: str) -> str:
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
