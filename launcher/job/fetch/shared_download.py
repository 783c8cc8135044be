"""One process at a time for one thing in one directory; the others wait for what came of it.

Processes of one job, of several jobs and of several machines may share a Hugging Face cache. All that they are known to
share is that directory, so they meet there: files `00000001`, `00000002`, ... are turns, the highest number counts, and
`NUMBER.end` says how it ended. A turn begins by creating its file with O_CREAT|O_EXCL, which one process wins (open(2);
over NFS from version 3 on) and which every file system has. Kernel locks are not used: Lustre mounts may have none or
some for each node alone (mount.lustre: noflock, localflock), and a lock says nothing of how its holder fared.

The mtime of a turn's file is its holder's heartbeat. A turn counts as lost when its process is seen to be gone (same
machine, same pid namespace), or when the heartbeat has not changed for `silent_s` of a waiter's own watching: clocks
are never compared. The heart stops, too, when for `stall_s` nothing has arrived. A process that was only stopped may so
be overtaken, and then two fetch: huggingface_hub's cache bears that (each file is written apart and renamed); what is
lost is a request, not a file.
"""

import contextlib
import json
import os
import random
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, TypeVar

from ...contract.units import bytes_text
from ..errors import UserError
from ..watch import periodic
from . import owner_record

T = TypeVar("T")

LOST_TURNS = 3
"""So many turns may be lost while one waits; then something other than a single process is wrong."""


class HubError(UserError):
    """The hub, the network or the cache's disk refused, not the request; the sentence says what to do."""


@dataclass(frozen=True)
class Timing:
    """How often and how long, in seconds."""

    beat_s: float = 3.0
    # More than an NFS client keeps attributes by default (acregmax, acdirmax: 60 s, nfs(5)).
    silent_s: float = 90.0
    stall_s: float = 900.0
    poll_s: float = 1.0
    tell_s: float = 30.0
    settle_s: float = 90.0


@dataclass(frozen=True)
class Thing:
    """What a turn is for: `name` in sentences, `folders` grow while it is fetched."""

    key: str
    name: str
    folders: tuple[Path, ...] = ()


@dataclass
class Turn:
    """A process's place in the queue for `thing` in `directory`; `job` is the same for all ranks of one attempt."""

    directory: Path
    thing: Thing
    job: str
    who: str
    say: Callable[[str], None] = lambda _text: None
    timing: Timing = field(default_factory=Timing)

    def take(self, look: Callable[[], Optional[T]], work: Callable[[], T]) -> T:
        """What `look` finds, once it does: after this process did the `work`, or another one.

        Exactly one of those who wait together works, and all others end as it does: with the thing, or with the same
        sentence. Raises HubError; and what `work` raises.
        """
        home = self.directory / self.thing.key
        try:
            home.mkdir(parents=True, exist_ok=True)
            return self._take(home, look, work)
        except OSError as error:
            if not str(error.filename).startswith(str(home.parent)):
                raise  # of the work itself
            reason = error.strerror or error
            raise HubError(
                f"{self.thing.name} has to be fetched, and the Hugging Face cache cannot be written: {reason}",
                where=str(self.directory.parents[1]),
                hint="set HF_HOME to a directory that can be written, or have its owner run `launcher fetch`",
            ) from error

    def _take(self, home: Path, look: Callable[[], Optional[T]], work: Callable[[], T]) -> T:
        first = _newest(home)
        watch, told, pause = _Watch(self.timing), time.monotonic(), 0.05
        while True:
            number = _newest(home)
            end = _end(home, number)
            if number and end and (end["job"] == self.job or number > first) and end["state"] != "left":
                return self._outcome(end, look)
            if not number or end or watch.is_lost(home, number):
                if number - first >= LOST_TURNS:
                    raise HubError(
                        f"{LOST_TURNS} processes in turn were to fetch {self.thing.name}, and each died or stood still",
                        hint=_BY_HAND,
                    )
                if _begin(home, number + 1, self._card()):
                    return self._lead(home, number + 1, look, work)
                continue
            if time.monotonic() - told >= self.timing.tell_s:
                told = time.monotonic()
                so_far = bytes_text(_size(self.thing.folders))
                self.say(f"{_who(home, number)} fetches {self.thing.name} for all, {so_far} so far")
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - a thousand should not ask at once
            pause = min(pause * 1.5, self.timing.poll_s)

    def _card(self) -> str:
        return json.dumps({"who": self.who, "job": self.job, **owner_record.this_process()})

    def _lead(self, home: Path, number: int, look: Callable[[], Optional[T]], work: Callable[[], T]) -> T:
        with _beating(home / f"{number:08d}", self.thing.folders, self.timing):
            end: dict[str, Any] = {"state": "left", "job": self.job}  # a signal: the next one goes on
            try:
                found = look()  # somebody may have finished between our last look and our turn
                found = work() if found is None else found
                end["state"] = "done"
                return found
            except Exception as error:
                end |= {"state": "failed", "message": _message(error), "hint": getattr(error, "hint", None)}
                end["where"] = getattr(error, "where", None)
                raise
            finally:
                _write(home / f"{number:08d}.end", json.dumps(end))

    def _outcome(self, end: dict[str, Any], look: Callable[[], Optional[T]]) -> T:
        if end["state"] == "failed":
            raise HubError(str(end["message"]), where=end.get("where"), hint=end.get("hint"))
        until = time.monotonic() + self.timing.settle_s
        while (found := look()) is None:
            # A network file system may show what another machine wrote only after a while.
            if time.monotonic() > until:
                raise HubError(
                    f"{self.thing.name} was fetched by another process, and is still not complete here",
                    where=str(self.directory.parents[1]),
                    hint=_BY_HAND,
                )
            time.sleep(self.timing.poll_s)
        return found


_BY_HAND = "fetch it before the job, with the same environment: `launcher fetch RECIPE`"


class _Watch:
    """Whether the holder of a turn lives, by this process's own monotonic clock."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._seen: Optional[tuple[int, int]] = None
        self._looked = self._quiet = 0.0

    def is_lost(self, home: Path, number: int) -> bool:
        path, now = home / f"{number:08d}", time.monotonic()
        try:
            # Opening, unlike stat, makes an NFS client ask for the attributes (close-to-open, nfs(5)).
            with path.open("rb") as file:
                beat, text = os.fstat(file.fileno()).st_mtime_ns, file.read()
        except OSError:
            return False  # a higher one has come
        if (number, beat) != self._seen:
            self._seen, self._quiet = (number, beat), 0.0
        else:
            # A waiter that was itself stopped saw nothing in that time.
            self._quiet += min(now - self._looked, self._timing.beat_s)
        self._looked = now
        return self._quiet >= self._timing.silent_s or owner_record.is_gone(text)


def _newest(home: Path) -> int:
    return max((int(path.name) for path in home.iterdir() if re.fullmatch(r"[0-9]{8}", path.name)), default=0)


def _end(home: Path, number: int) -> dict[str, Any]:
    """How the turn ended; empty while it lasts."""
    with contextlib.suppress(OSError, ValueError):
        end = json.loads((home / f"{number:08d}.end").read_text(encoding="utf-8"))
        if isinstance(end, dict) and {"state", "job"} <= end.keys():
            return end
    return {}


def _begin(home: Path, number: int, card: str) -> bool:
    """Create the file of a turn; False where another process has that turn or a later one."""
    path = home / f"{number:08d}"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(card)
    if _newest(home) != number:
        # This process slept between looking and creating; numbers below the newest are removed and can be made again.
        path.unlink(missing_ok=True)
        return False
    for other in home.iterdir():
        if other.name[:8].isdigit() and int(other.name[:8]) < number:
            with contextlib.suppress(OSError):
                other.unlink()
    return True


def _beating(path: Path, folders: tuple[Path, ...], timing: Timing) -> AbstractContextManager[None]:
    """Inside the block the file's mtime changes every `beat_s`, as long as something arrives in `folders`."""
    size, since = -1, time.monotonic()

    def beat() -> None:
        nonlocal size, since
        now = _size(folders)
        if now != size:
            size, since = now, time.monotonic()
        if time.monotonic() - since < timing.stall_s:
            with contextlib.suppress(OSError):
                os.utime(path)

    return periodic.every(timing.beat_s, beat, "fetch")


def _size(folders: tuple[Path, ...]) -> int:
    """Bytes of the files below, symbolic links not followed."""
    total = 0
    for folder in folders:
        with contextlib.suppress(OSError):  # files are renamed meanwhile
            for path in folder.rglob("*"):
                total += path.lstat().st_size
    return total


def _who(home: Path, number: int) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((home / f"{number:08d}").read_text(encoding="utf-8"))["who"])
    return "another process"


def _message(error: BaseException) -> str:
    return error.message if isinstance(error, UserError) else f"{type(error).__name__}: {error}".splitlines()[0]


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
