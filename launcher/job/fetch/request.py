"""`python3 entrypoint.py --fetch`: fetch, before a run, what the run will read from the hub.

Reads the request of --check-config from standard input and writes events (contract/events.py) to standard output; the
result is `{"endpoint", "cache", "items": [{"kind", "name", "revision", "state": "here|fetched", "bytes", "files",
"seconds"}]}`. It shares downloads with the ranks of running jobs: what a job is fetching is not fetched twice.
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Optional

from ...contract.events import EventWriter
from ..config import check
from ..errors import UserError
from ..rank import Rank
from ..watch import periodic, stdout_channel
from . import explain, fetch_need, make_configuration, needs, offline
from .shared_download import HubError

_TICK_S = 0.5


def main() -> int:
    """Answer one request; return the exit status: 0, 2 for a wrong request, 3 where the outside world failed."""
    with stdout_channel.on_stdout() as out:
        events = EventWriter.to_stream(out)
        try:
            events.result(fetch(check.read_request(sys.stdin.read()), events))
        except UserError as error:
            outside = isinstance(error, HubError)
            events.error(error.message, "outside" if outside else "request", where=error.where, hint=error.hint)
            return 3 if outside else 2
    return 0


def fetch(request: Mapping[str, Any], events: EventWriter) -> dict[str, Any]:
    """Fetch what the request's run needs and return what that was. Raises UserError."""
    offline.begin()
    # This process counts as an attempt of its own (SharedDownload.attempt).
    rank = Rank(0, 0, 1, 1, 0, "", Path(f"/launcher fetch/{socket.gethostname()}/{os.getpid()}"), "000")
    items: list[dict[str, Any]] = []

    def recipe(load: Callable[[], Any]) -> Any:
        before = _repositories()
        what = "what the recipe reads from the hub"
        with _reporting(events, what, lambda: _total(_repositories()) - _total(before), None):
            config, seconds = _timed(lambda: make_configuration(load, request, rank))
        for name, now in _repositories().items():
            if now != before.get(name):
                items.append(_item("configuration", name, None, before.get(name, (0, 0)), now, seconds))
        return config

    config, _ = check.build_config(request, recipe)
    for need in needs.of_config(config, request["options"].get("init")):
        items.append(_fetched(need, rank, events))
    return {"endpoint": explain.endpoint(), "cache": str(needs.hub_cache()), "items": items}


def _fetched(need: needs.Need, rank: Rank, events: EventWriter) -> dict[str, Any]:
    folders = needs.resource(need).folders
    before = _size(folders)
    if needs.is_cached(need) is not None:
        return {**_item(need.kind, need.name, need.revision, (0, 0), before, 0.0), "state": "here"}
    with _reporting(events, need.title, lambda: _size(folders)[0] - before[0], needs.size(need)):
        _, seconds = _timed(lambda: fetch_need(need, rank))
    return _item(need.kind, need.name, need.revision, before, _size(folders), seconds)


def _item(
    kind: str, name: str, revision: Optional[str], before: tuple[int, int], now: tuple[int, int], seconds: float
) -> dict[str, Any]:
    change = {"bytes": now[0] - before[0], "files": now[1] - before[1], "seconds": round(seconds, 1)}
    return {"kind": kind, "name": name, "revision": revision, "state": "fetched", **change}


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.monotonic()
    return work(), time.monotonic() - started


def _repositories() -> dict[str, tuple[int, int]]:
    """Return bytes and number of files of each model in the cache, by its name on the hub."""
    folders = needs.hub_cache().glob("models--*")
    return {folder.name.removeprefix("models--").replace("--", "/"): _size((folder,)) for folder in folders}


def _size(folders: tuple[Path, ...]) -> tuple[int, int]:
    """Return bytes and number of the files below, each counted once: the links of a snapshot are left out."""
    total = count = 0
    for folder in folders:
        with contextlib.suppress(OSError):  # files may be renamed meanwhile
            for path in folder.rglob("*"):
                if (
                    path.is_file()
                    and not path.is_symlink()
                    and "refs" not in path.parts
                    and ".no_exist" not in path.parts
                ):
                    total, count = total + path.stat().st_size, count + 1
    return total, count


def _total(repositories: Mapping[str, tuple[int, int]]) -> int:
    return sum(size for size, _ in repositories.values())


def _reporting(
    events: EventWriter, name: str, growth: Callable[[], int], total: Optional[int]
) -> AbstractContextManager[None]:
    """Write a stage and its progress from time to time inside the block: nothing for one that is soon done."""

    def report() -> None:
        events.stage(name)
        events.progress(growth(), total, "B")

    return periodic.every(_TICK_S, report, "progress")
