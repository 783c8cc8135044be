"""Files and programs, read: a text, or a reason in place of an exception."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

_TIMEOUT_S = 30.0
"""A hung driver does not answer for minutes; a healthy nvidia-smi takes 1 to 5 s on eight GPUs."""


@dataclass(frozen=True)
class Reading:
    """A text, or why there is none."""

    text: Optional[str]
    why: str = ""


def file(path: Path) -> Reading:
    """Return a file's text."""
    try:
        return Reading(path.read_text(encoding="utf-8", errors="replace").strip())
    except OSError as error:
        return Reading(None, f"{path}: {error.strerror}")


def program(argv: Sequence[str], timeout_s: float = _TIMEOUT_S, environ: Optional[Mapping[str, str]] = None) -> Reading:
    """Return what a program printed; none if it is missing, failed, or did not end in time."""
    # Messages must not be translated, because they are parsed.
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
        return Reading(None, f"{argv[0]} is not installed")
    except OSError as error:
        return Reading(None, f"{argv[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Reading(None, f"{argv[0]} did not answer within {timeout_s:g} s")
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()[-1]
        return Reading(None, f"{argv[0]} ended with status {done.returncode}: {said}")
    return Reading(done.stdout)


def first(*readings: Reading) -> Reading:
    """Return the first that was read; if none was, the first one with its reason."""
    return next((each for each in readings if each.text is not None), readings[0])
