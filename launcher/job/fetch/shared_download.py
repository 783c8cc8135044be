"""Downloads shared by processes that have a directory in common: one process works, the others wait for its result.

Processes of one job, of several jobs and of several machines may share a Hugging Face cache. That directory is all that
they are known to share, so they coordinate there: a claim is a generation (contract/generations.py, which says why one
process only begins it), and `NUMBER.end` records how it ended. Kernel locks are not used: a Lustre mount may have none,
or one for each node alone (mount.lustre: noflock, localflock), and a lock does not show how its owner fared.

An owner counts as lost when its process is seen to have ended (same machine, same pid namespace), or when its
heartbeat has not changed for `silent_s`. The heartbeat also stops when nothing has arrived for `stall_s`. A process
that was only stopped may thus be replaced, and then two fetch: huggingface_hub's cache tolerates that (each file is
written under another name and renamed); what is lost is a request, not a file.
"""

import contextlib
import json
import os
import random
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, TypeVar

from ...contract import generations
from ...contract.files import write_json
from ...contract.process import ProcessIdentity
from ...contract.units import bytes_text
from ..errors import TransientError, UserError
from ..watch import periodic

T = TypeVar("T")

MAX_LOST_OWNERS = 3
"""Number of owners that may be lost while a process waits; after that, not a single process is at fault."""


class HubError(UserError):
    """Failure of the hub, the network or the cache's disk, not of the request; the message says what to do."""


class TransientHubError(HubError, TransientError):
    """A failure of that kind which another attempt need not meet."""


@dataclass(frozen=True)
class Timing:
    """Intervals and limits, in seconds."""

    beat_s: float = 3.0
    silent_s: float = generations.SILENT_S
    stall_s: float = 900.0
    poll_s: float = 1.0
    report_s: float = 30.0
    settle_s: float = 90.0


@dataclass(frozen=True)
class Resource:
    """What is downloaded: `name` as messages call it; `folders` grow while it is fetched."""

    key: str
    name: str
    folders: tuple[Path, ...] = ()


@dataclass
class SharedDownload:
    """Download of `resource` that processes coordinate in `directory`.

    `attempt` is the same for all ranks of one attempt; `process` is how messages name this process.
    """

    directory: Path
    resource: Resource
    attempt: str
    process: str
    report: Callable[[str], None] = lambda _text: None
    timing: Timing = field(default_factory=Timing)

    def run_once(self, find: Callable[[], Optional[T]], work: Callable[[], T]) -> T:
        """Return what `find` returns, once it returns something: after this process, or another one, did the `work`.

        Exactly one of the processes that wait together works, and all others end as it does: with the resource, or with
        the same error. Raises HubError, and what `work` raises.
        """
        home = self.directory / self.resource.key
        try:
            home.mkdir(parents=True, exist_ok=True)
            return self._run_once(home, find, work)
        except OSError as error:
            if not str(error.filename).startswith(str(home.parent)):
                raise  # raised by the work itself
            reason = error.strerror or error
            raise HubError(
                f"{self.resource.name} must be fetched, but the Hugging Face cache cannot be written: {reason}",
                where=str(self.directory.parents[1]),
                hint="set HF_HOME to a directory that you can write, or ask its owner to run `launcher fetch`",
            ) from error

    def _run_once(self, home: Path, find: Callable[[], Optional[T]], work: Callable[[], T]) -> T:
        first = generations.newest_number(home)
        watcher = generations.HeartbeatWatcher(self.timing.beat_s, self.timing.silent_s)
        reported, pause = time.monotonic(), 0.05
        while True:
            number = generations.newest_number(home)
            end = _read_end(home, number)
            if number and end and (end["attempt"] == self.attempt or number > first) and end["state"] != "left":
                return self._result_of(end, find)
            if not number or end or _is_lost(home, number, watcher):
                if number - first >= MAX_LOST_OWNERS:
                    tried = f"{MAX_LOST_OWNERS} processes tried, and each died or made no progress"
                    raise TransientHubError(f"{self.resource.name} was not fetched: {tried}", hint=_BY_HAND)
                if generations.begin(home, number + 1, self._claim_text()):
                    return self._work_as_owner(home, number + 1, find, work)
                continue
            if time.monotonic() - reported >= self.timing.report_s:
                reported = time.monotonic()
                so_far = bytes_text(_size(self.resource.folders))
                owner = _owner_name(home, number)
                self.report(f"{owner} is fetching {self.resource.name} for all ranks: {so_far} so far")
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - a thousand ranks should not ask at once
            pause = min(pause * 1.5, self.timing.poll_s)

    def _claim_text(self) -> str:
        return json.dumps(
            {"process": self.process, "attempt": self.attempt, **ProcessIdentity.of_this_process().to_dict()}
        )

    def _work_as_owner(self, home: Path, number: int, find: Callable[[], Optional[T]], work: Callable[[], T]) -> T:
        with _heartbeat(generations.file_of(home, number), self.resource.folders, self.timing):
            # "left" stays after a signal; then the next process continues.
            end: dict[str, Any] = {"state": "left", "attempt": self.attempt}
            try:
                found = find()  # another process may have finished between the last look and this claim
                found = work() if found is None else found
                end["state"] = "done"
                return found
            except Exception as error:
                end |= {"state": "failed", "message": _message(error), "hint": getattr(error, "hint", None)}
                end["where"], end["transient"] = getattr(error, "where", None), isinstance(error, TransientError)
                raise
            finally:
                write_json(_end_file(home, number), end)

    def _result_of(self, end: dict[str, Any], find: Callable[[], Optional[T]]) -> T:
        if end["state"] == "failed":
            kind = TransientHubError if end.get("transient") else HubError
            raise kind(str(end["message"]), where=end.get("where"), hint=end.get("hint"))
        until = time.monotonic() + self.timing.settle_s
        while (found := find()) is None:
            # A network file system may show another machine's files only after a while.
            if time.monotonic() > until:
                raise TransientHubError(
                    f"another process fetched {self.resource.name}, but it is still incomplete in this cache",
                    where=str(self.directory.parents[1]),
                    hint=_BY_HAND,
                )
            time.sleep(self.timing.poll_s)
        return found


_BY_HAND = "fetch it before the job with the same environment: `launcher fetch RECIPE`"


def _is_lost(home: Path, number: int, watcher: generations.HeartbeatWatcher) -> bool:
    try:
        heartbeat, claim = generations.read(home, number)
    except OSError:
        return False  # a later claim has replaced it
    return watcher.is_silent(number, heartbeat) or _has_ended(claim)


def _end_file(home: Path, number: int) -> Path:
    return home / f"{number:08d}.end"


def _read_end(home: Path, number: int) -> dict[str, Any]:
    """Return how the claim ended; empty while its owner works."""
    with contextlib.suppress(OSError, ValueError):  # not written yet
        end = json.loads(_end_file(home, number).read_text(encoding="utf-8"))
        if isinstance(end, dict) and {"state", "attempt"} <= end.keys():
            return end
    return {}


def _heartbeat(path: Path, folders: tuple[Path, ...], timing: Timing) -> AbstractContextManager[None]:
    """Change the file's mtime every `beat_s` inside the block, as long as something arrives in `folders`."""
    size, since = -1, time.monotonic()

    def beat() -> None:
        nonlocal size, since
        now = _size(folders)
        if now != size:
            size, since = now, time.monotonic()
        if time.monotonic() - since < timing.stall_s:
            with contextlib.suppress(OSError):  # a later claim has replaced it, or the next beat succeeds
                os.utime(path)

    return periodic.every(timing.beat_s, beat, "fetch")


def _size(folders: tuple[Path, ...]) -> int:
    """Return the bytes of the files below; symbolic links are not followed."""
    total = 0
    for folder in folders:
        with contextlib.suppress(OSError):  # files may be renamed meanwhile
            for path in folder.rglob("*"):
                total += path.lstat().st_size
    return total


def _has_ended(claim: bytes) -> bool:
    """Return whether the owner of a claim has certainly ended; False where that cannot be seen from here."""
    try:
        record = json.loads(claim)
    except ValueError:
        return False  # half written: its owner lives, or its heartbeat will stop
    owner = ProcessIdentity.from_dict(record) if isinstance(record, dict) else None
    return owner is not None and owner.has_ended() is True


def _owner_name(home: Path, number: int) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # replaced, or half written
        return str(json.loads(generations.file_of(home, number).read_text(encoding="utf-8"))["process"])
    return "another process"


def _message(error: BaseException) -> str:
    return error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}".splitlines()[0]
