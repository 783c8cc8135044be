"""`--convert`: check the request at once, start the ranks, and publish the result under its name.

This process needs only the standard library; each rank is a process of its own (work.py), over gloo or NCCL.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Optional, TextIO

from ...contract.conversion import REPORT, ConversionRequest, parse
from ...contract.events import EventWriter
from ...contract.units import bytes_text
from ..errors import UserError, first_line
from ..model import hf_files
from ..watch import stdout_channel
from . import sources

_GRACE_S = 5.0


def main(text: str) -> int:
    """Carry out the request `text`.

    Exit status: 0 converted and equal, 1 converted and not equal, 2 the request was wrong, 3 another failure.
    """
    with stdout_channel.on_stdout() as out:
        try:
            request = _read_request(text)
            if "RANK" in os.environ:
                return _rank(request, out)
            with _terminated():
                return _supervise(_ready(request), out)
        except (Exception, SystemExit) as error:
            return _report_error(error, EventWriter.to_stream(out))


def _read_request(text: str) -> ConversionRequest:
    try:
        return parse(text)
    except (ValueError, TypeError) as error:
        raise UserError(f"--convert cannot read its request: {error}") from None


def _rank(request: ConversionRequest, out: TextIO) -> int:
    _end_with_parent()
    from . import work

    rank = int(os.environ["RANK"])
    try:
        ok = work.run(request, EventWriter.to_stream(out) if rank == 0 else EventWriter.silent())
    except BaseException as error:
        if not isinstance(error, UserError):
            import traceback

            traceback.print_exc()
        status = _report_error(error, EventWriter.to_stream(out))
        sys.stderr.flush()
        # Other ranks wait for this one in a collective; destroying the process group would wait for them.
        os._exit(status)
    return 0 if ok else 1


def _report_error(error: BaseException, events: EventWriter) -> int:
    """Write why the conversion ended; return the exit status: 2 for a wrong request, 3 for anything else."""
    if isinstance(error, UserError):
        events.error(error.message, "request", where=error.where, hint=error.hint)
        return 2
    events.error(f"{type(error).__name__}: {first_line(error)}", "program")
    return 3


def _ready(request: ConversionRequest) -> ConversionRequest:
    """Return the request with its exact source, and a directory for the result. Raises UserError."""
    target = Path(request.target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            f"the directory {target} exists and is not empty", hint="choose another directory, or remove it"
        )
    if request.action == "import":
        weights = hf_files.read_weights(sources.require_hf_model(Path(request.source)))
        source, size = request.source, weights.size_bytes
    else:
        found = sources.iteration(Path(request.source))
        source, size = str(found), sum(file.stat().st_size for file in found.glob("*.distcp"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise UserError(f"the directory cannot be created: {error}", where=str(target)) from error
    # A training checkpoint also holds the optimizer's state, which is several times the size of an export.
    if request.action == "import" and size > free:
        raise UserError(f"the result needs {bytes_text(size)}, but only {bytes_text(free)} are free", where=str(target))
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    return replace(request, source=source, partial=str(partial))


def _supervise(request: ConversionRequest, out: TextIO) -> int:
    request.partial_dir.mkdir()
    try:
        status = _run_ranks(request, out)
        if status not in (0, 1):
            return status
        report = json.loads((request.partial_dir / REPORT).read_text(encoding="utf-8"))
        report["target"] = str(_publish(request, whole=status == 0))
        EventWriter.to_stream(out).result(report)
        return status
    finally:
        shutil.rmtree(request.partial_dir, ignore_errors=True)


def _publish(request: ConversionRequest, whole: bool) -> Path:
    """Rename the result; an unequal one never gets the name under which it would be used."""
    target = Path(request.target)
    if not whole:
        target = target.with_name(f"{target.name}.parity-failed")
        shutil.rmtree(target, ignore_errors=True)
    for path in [request.partial_dir / REPORT, *request.partial_dir.glob("iter_*/run_config.yaml")]:
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(request.partial, str(target)), encoding="utf-8")
    request.partial_dir.rename(target)
    return target


def _run_ranks(request: ConversionRequest, out: TextIO) -> int:
    """Start all ranks and wait; return the status of the first that fails, after which the others are ended."""
    port, text = _free_port(), request.to_json()
    threads = max(1, (os.cpu_count() or 1) // request.ranks)
    ranks = []
    try:
        for rank in range(request.ranks):
            names: dict[str, Any] = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": request.ranks,
                "LOCAL_WORLD_SIZE": request.ranks,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
            }
            environment = {**os.environ, **{name: str(value) for name, value in names.items()}}
            command = [sys.executable, os.path.abspath(sys.argv[0]), "--convert", text]  # noqa: PTH100 as it is
            # A group of its own, because saving a checkpoint starts a process that would outlive a killed rank.
            pipe = subprocess.PIPE
            ranks.append(subprocess.Popen(command, env=environment, stdin=pipe, stdout=out, start_new_session=True))
        return _wait(ranks)
    finally:
        _end(ranks)


def _wait(ranks: "list[subprocess.Popen[bytes]]") -> int:
    while True:
        statuses = [one.poll() for one in ranks]
        bad = next((status for status in statuses if status not in (None, 0, 1)), None)
        if bad is not None:
            return bad if bad in (2, 3) else _died(bad)
        if None not in statuses:
            return 1 if 1 in statuses else 0
        time.sleep(0.05)


def _died(status: int) -> int:
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    memory = "; the kernel kills processes when memory runs out" if how == "SIGKILL" else ""
    raise RuntimeError(f"a rank of the conversion ended with {how}{memory}")


def _end(ranks: "list[subprocess.Popen[bytes]]") -> None:
    for one in ranks:
        if one.poll() is None:
            one.terminate()
    until = time.monotonic() + _GRACE_S
    for one in ranks:
        try:
            one.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            one.kill()
            one.wait()
        # Its children, if there are any left.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, which closes its end of the pipe on stdin."""

    def watch() -> None:
        # Not through sys.stdin: a thread that holds its lock keeps the interpreter from ending.
        os.read(0, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """Raise SystemExit on SIGTERM inside the block, so that a partial result is removed."""

    def leave(number: int, _frame: Optional[FrameType]) -> None:
        raise SystemExit(f"ended by {signal.Signals(number).name}")

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
