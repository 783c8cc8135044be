"""The run roots of a user, so that every command finds runs from any directory.

A file of the user's with one path on each line. It does not record runs: the roots themselves hold everything. Where it
is lost or damaged, each `run`, `submit` and `status --run-root DIR` adds its root again.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from launcher.contract import files

_MOST = 200
"""Lines after which roots that are gone are left out."""


def registry_file(environ: Mapping[str, str]) -> Path | None:
    """Return the file: `launcher/run-roots` below XDG_STATE_HOME (~/.local/state); None without a home directory."""
    home = environ.get("XDG_STATE_HOME") or (f"{environ['HOME']}/.local/state" if environ.get("HOME") else "")
    path = Path(home) / "launcher" / "run-roots"
    return path if path.is_absolute() else None


def known_roots(environ: Mapping[str, str]) -> list[Path]:
    """Return the run roots that this user has used, the newest first; none where they cannot be read."""
    path = registry_file(environ)
    try:
        lines = files.read_bytes(path).split(b"\n") if path else []
    except OSError:
        return []
    return [Path(os.fsdecode(line)) for line in dict.fromkeys(reversed(lines)) if line.startswith(b"/")]


def remember_root(root: Path, environ: Mapping[str, str]) -> None:
    """Add a run root. Where that is impossible, runs below it are found from its own directory alone."""
    path = registry_file(environ)
    line = os.fsencode(os.path.realpath(root))
    if path is None or b"\n" in line:
        return
    try:
        known = known_roots(environ)
        if Path(os.fsdecode(line)) in known:
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(known) >= _MOST:
            kept = [each for each in reversed(known) if each.is_dir()]
            files.write_text(path, "".join(f"{each}\n" for each in kept), mode=0o600)
        with path.open("ab") as file:
            file.write(line + b"\n")
    except (OSError, ValueError):
        return  # a home directory that is full or read-only does not keep a run from starting
