"""The verdict on a gate: a program that measures or prepares the nodes of a job before its ranks start, or after them.

    gate.py ATTEMPT_DIR NAME STATUS LEAST_GB_S WHEN

LEAST_GB_S is `-` where any bandwidth will do, and `status` where the exit status alone counts; WHEN is before or after.

It reads what the program has printed, adds the result to gates.json, and ends with status 0 where the gate is passed.
It runs on the host and needs the standard library alone.
"""

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Optional

if __name__ == "__main__":
    # Run as a file: this directory's modules are reached through their package alone.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from launcher.contract.files import read_object, read_text, write_json
from launcher.contract.paths import AttemptPaths
from launcher.contract.records.nodes import GateOutcome

STATUS = "status"
"""In the place of a bandwidth: the exit status alone counts."""

_OUTPUT_BYTES = 16 << 20
_TIMED_OUT, _KILLED = 124, 137
"""What `timeout` ends with: after SIGTERM; after SIGKILL, as does srun where Slurm or the kernel kills a task."""
_NOT_STARTED = {126: "cannot be executed", 127: "was not found"}
"""What shells, `env` and container runtimes end with where they cannot start a program."""
_EXECVE = r"^slurmstepd: error: execve\(\): (.+)$"
"""What Slurm says where it cannot start a program itself; the status is the number of the error then."""

_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?"
"""As printf's `%g` writes it: 5e-05 for a small one."""


def judge(
    name: str,
    text: str,
    errors: str,
    status: int,
    least: Optional[float],
    *,
    measures: bool = True,
    when: Literal["before", "after"] = "before",
) -> GateOutcome:
    """Return what became of a gate, from what it has printed (the form of nccl-tests) and its exit status.

    Of one that does not measure the status alone counts.
    """
    # https://github.com/NVIDIA/nccl-tests, src/common.cu: `# Avg bus bandwidth    : 380.12`, in GB/s.
    found = re.findall(rf"^\s*#\s*Avg bus bandwidth\s*:\s*({_NUMBER})(?:\s|$)", text, re.MULTILINE)
    measured = float(found[-1]) if found else None
    wrong = re.search(r"^\s*#\s*Out of bounds values\s*:\s*(\d+)\s+FAILED", text, re.MULTILINE)
    passed, started = False, True
    if status == _TIMED_OUT:
        reason = "it did not end in time"
    elif status == _KILLED:
        reason = f"it was killed, at the end of its time or for another reason: {_last_words(errors or text)[:200]}"
    elif status and (unable := re.search(_EXECVE, errors, re.MULTILINE)):
        started, reason = False, f"its program cannot be started: {unable[1][:200]}"
    elif status in _NOT_STARTED:
        said = _last_words(errors or text)[:200]
        started, reason = False, f"its program {_NOT_STARTED[status]} (status {status}): {said}"
    elif status:
        reason = f"it ended with status {status}: {_last_words(errors or text)[:200]}"
    elif not measures:
        passed, reason = True, "it ended with status 0"
    elif wrong:
        reason = f"{wrong[1]} values were wrong"
    elif measured is None:
        reason = "it printed no average bus bandwidth"
    elif least is not None and measured < least:
        reason = f"average bus bandwidth {measured:g} GB/s, and at least {least:g} GB/s are wanted"
    else:
        passed, reason = True, f"average bus bandwidth {measured:g} GB/s"
    return {
        "name": name,
        "when": when,
        "measures": measures,
        "passed": passed,
        "started": started,
        "reason": reason,
        "bus_gb_s": measured if measures else None,
        "min_bus_gb_s": least,
    }


def _last_words(text: str) -> str:
    """Return the last line that is the program's own, else Slurm's."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith(("srun:", "slurmstepd"))]
    return (own or lines or ["no output"])[-1]


def _said(path: Path) -> str:
    try:
        return read_text(path, limit=_OUTPUT_BYTES, errors="replace")
    except OSError:
        return ""  # as of a program that printed nothing: its status decides


def main(arguments: Sequence[str]) -> int:
    """Judge one gate; 1 where it has not passed."""
    directory, name, status, least, when = arguments
    attempt = AttemptPaths(Path(directory))
    text, errors = _said(attempt.gate_output(name)), _said(attempt.gate_errors(name))
    result = judge(
        name,
        text,
        errors,
        int(status),
        None if least in ("-", STATUS) else float(least),
        measures=least != STATUS,
        when="after" if when == "after" else "before",
    )
    before = (read_object(attempt.gates) or {}).get("gates", [])
    write_json(attempt.gates, {"version": 1, "time": time.time(), "gates": [*before, result]})
    print(
        f"launcher: gate {name}: {'passed' if result['passed'] else 'not passed'}: {result['reason']}", file=sys.stderr
    )
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
