"""Reading files and asking programs; what cannot be read comes back as a reason, not as an exception."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

_TIMEOUT_S = 30.0
"""A driver that hangs answers nothing for minutes; a healthy nvidia-smi takes 1 to 5 s on eight GPUs."""


@dataclass(frozen=True)
class Read:
    """A text, or why there is none."""

    text: Optional[str]
    why: str = ""


def file(path: Path) -> Read:
    """A file's text."""
    try:
        return Read(path.read_text(encoding="utf-8", errors="replace").strip())
    except OSError as error:
        return Read(None, f"{path}: {error.strerror}")


def program(argv: Sequence[str], timeout_s: float = _TIMEOUT_S, environ: Optional[Mapping[str, str]] = None) -> Read:
    """What a program printed; none if it is missing, ended with an error, or did not end."""
    # The program's own words, not those of a translation.
    env = {**(os.environ if environ is None else environ), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            list(argv),
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        return Read(None, f"{argv[0]} is not there")
    except OSError as error:
        return Read(None, f"{argv[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Read(None, f"{argv[0]} did not answer within {timeout_s:g} s")
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        return Read(None, f"{argv[0]} ended with status {done.returncode}: {said}")
    return Read(done.stdout)


def first(*readings: Read) -> Read:
    """The first that was read; of none, the first one's reason."""
    return next((each for each in readings if each.text is not None), readings[0])
