"""The lease of a run: which job or process executes it. sbatch.sh takes it in the same way."""

import contextlib
import json
import os
import time
from pathlib import Path
from typing import cast

from launcher._util.errors import DiskError
from launcher.contract import files
from launcher.contract.paths import LEASE, RunPaths
from launcher.contract.records.journal import Lease
from launcher.contract.validation import problems


def read_lease(run: RunPaths) -> Lease | None:
    """Return the lease of the run; None where there is none, or an empty or damaged one, which owns nothing."""
    return _read(run.lease)


def ended_lease(run: RunPaths, nonce: str) -> Lease | None:
    """Return the last lease of a submission that has ended; None where it never had one, or a damaged one."""
    return _read(run.ended_lease(nonce))


def read_checked_lease(run: RunPaths) -> tuple[Lease | None, str | None]:
    """Return the lease as `read_lease` does, and what is wrong with one that is a JSON object of another form."""
    if not os.path.lexists(f"{run.path}/{LEASE}"):  # as text: listings look at thousands
        return None, None
    value = files.read_object(run.lease)
    found = next(problems(value, Lease, unknown_keys=True), None) if value else None
    if found:
        return None, f"the lease is wrong: {found}"
    return cast(Lease, value) if value else None, None


def _read(path: Path) -> Lease | None:
    value = files.read_object(path)
    return None if value is None or any(problems(value, Lease, unknown_keys=True)) else cast(Lease, value)


def take_lease(run: RunPaths, nonce: str, attempt: str) -> Lease | None:
    """Take the lease for this process. Return the lease of the owner where the run has one. Raises DiskError."""
    mine: Lease = {
        "version": 1,
        "nonce": nonce,
        "cluster": None,
        "job_id": None,
        "host": os.uname().nodename,
        "attempt": attempt,
        "time": round(time.time(), 3),
    }
    temporary = run.path / f".lease.{mine['host']}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(mine) + "\n")
        with contextlib.suppress(OSError):  # over NFS the status may be wrong, so the file is read
            os.link(temporary, run.lease)
        temporary.unlink()
    except OSError as error:
        raise DiskError(f"cannot write the lease: {error.strerror}", where=str(run.lease)) from error
    found = read_lease(run)
    return None if found == mine else found or mine


def end_lease(run: RunPaths, *, only: str | None = None) -> None:
    """Put the lease of an owner that has ended aside; with `only` just that of this nonce. Raises DiskError."""
    if not run.lease.exists():
        return
    found = read_lease(run)
    if only is not None and (found is None or found["nonce"] != only):
        return
    nonce = found["nonce"] if found else f"unreadable-{os.getpid()}"
    try:
        # Another process has put it aside.
        with contextlib.suppress(FileNotFoundError):
            run.lease.rename(run.ended_lease(nonce))
    except OSError as error:
        raise DiskError(f"cannot end the lease: {error.strerror}", where=str(run.lease)) from error
