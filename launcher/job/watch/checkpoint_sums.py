"""The sums of checkpoints, taken beside the training once a save is final.

The first rank of each node sums the shards that its node's ranks wrote, mostly from the page cache; rank 0 also the
files that no rank's name is in. Each leaves its part in the checkpoint's directory, and rank 0 makes the manifest of
all parts. A save is final when the text tracker names it: Bridge writes that last, for asynchronous saves too.
"""

import contextlib
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any, Optional

from ...contract import checkpoints, manifest
from ...contract.files import read_object, write_json
from ...contract.records.checkpoints import FileSum
from ..rank import Rank

PARTS_LIMIT_S = 900.0
"""How long rank 0 waits for the parts of other nodes; later the checkpoint stays without a manifest."""

_PART = manifest.PREFIX + "sums-"
_THREADS = 2
_POLL_S = 0.5
_FINAL_POLL_S = 5.0
"""Between looks at the tracker while an asynchronous save is not final."""


_LOOK = -1
"""In place of an iteration: a save is not final yet."""


_Tracker = tuple[int, int, int]
"""The iteration that the text tracker names, its inode and its time: another save of that iteration changes these."""


def _tracker(directory: Path) -> Optional[_Tracker]:
    """Return the tracker; None where there is none, or no iteration in it."""
    try:
        status = (directory / checkpoints.TRACKERS[1]).stat()
    except OSError:
        return None
    iteration = checkpoints.tracked_iteration(directory)
    return None if iteration is None else (iteration, status.st_ino, status.st_mtime_ns)


class CheckpointSums:
    """One node's part in the manifests of a run's checkpoints; on rank 0 the manifests too.

    Failures are reported on standard error and never end the training: a checkpoint without manifest is `unverified`.
    """

    def __init__(self, rank: Rank, directory: Path, timeline: Any) -> None:
        self._rank = rank
        self._directory = directory
        self._timeline = timeline
        self._seen: Optional[int] = None
        self._earlier: Optional[_Tracker] = None
        self._expected = 0
        self._seeing = threading.Lock()
        self._last_bytes: Optional[int] = None
        self._waiting: queue.Queue[Optional[int]] = queue.Queue()
        self._over = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def last_bytes(self) -> Optional[int]:
        """Return the size of the last checkpoint whose manifest this rank has written; None before one."""
        return self._last_bytes

    def begin(self, iteration: int) -> None:
        """Start after the checkpoint of this iteration: the sums of older ones are no longer those of the save.

        After a rollback the tracker still names a newer one, of an earlier attempt, until a save is final.
        """
        self._seen = iteration
        self._earlier = _tracker(self._directory)

    def look(self, saved: int = 0) -> None:
        """Take the sums of the checkpoint that the tracker names, if this attempt saved it.

        `saved` is the iteration whose save has just returned; of an asynchronous one the sums are taken once the
        tracker names it, without waiting for it here.
        """
        self._expected = max(self._expected, saved)
        found = self._next_final()
        if found is None and (self._seen is None or self._expected <= self._seen):
            return
        if self._thread is None:
            # A daemon: a process that has to end does not wait for it.
            self._thread = threading.Thread(target=self._work, name="checkpoint-sums", daemon=True)
            self._thread.start()
        self._waiting.put(_LOOK if found is None else found)

    def finish(self, limit_s: float) -> None:
        """Wait for the sums of the last checkpoint, at most `limit_s`, and stop."""
        if limit_s > 0:
            self.look()
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(max(0.0, limit_s))
        self._over.set()

    def _next_final(self) -> Optional[int]:
        """Return the iteration that the tracker names where it was not seen before; it counts as seen then."""
        with self._seeing:
            tracker = _tracker(self._directory)
            if tracker is None or self._seen is None or tracker == self._earlier or tracker[0] <= self._seen:
                return None
            self._seen = iteration = tracker[0]
        if self._rank.rank == 0:
            with contextlib.suppress(OSError):  # the manifest of this save replaces what stays
                self._forget(iteration)
        return iteration

    def _forget(self, iteration: int) -> None:
        """Remove what an earlier save of this iteration has left."""
        path = self._checkpoint(iteration)
        for old in (self._rank.run_paths.manifest(path), self._rank.run_paths.set_aside(iteration)):
            old.unlink(missing_ok=True)
        for part in set(self._parts(iteration, "*")).difference(self._parts(iteration)):
            part.unlink(missing_ok=True)

    def _work(self) -> None:
        while not self._over.is_set():
            is_pending = self._seen is not None and self._expected > self._seen
            try:
                iteration = self._waiting.get(timeout=_FINAL_POLL_S if is_pending else None)
            except queue.Empty:
                iteration = self._next_final() or _LOOK
            if iteration is None:
                return
            if iteration == _LOOK:
                continue
            try:
                self._sum(iteration)
            except Exception as error:
                self._say(f"warning: no sums of checkpoint {iteration} were recorded: {error}")

    def _sum(self, iteration: int) -> None:
        path, began = self._checkpoint(iteration), time.monotonic()
        algorithm = manifest.best_algorithm()
        own = [name for name in manifest.file_names(path) if self._is_own(name)]
        found, failed = manifest.sum_files(path, own, algorithm, threads=_THREADS, stop=self._over, nice=True)
        if failed:
            name = min(failed)
            raise OSError(f"{name} cannot be read: {failed[name].strerror}")
        if self._over.is_set():
            return
        if self._rank.rank != 0:
            write_json(self._part(iteration, self._rank.rank), {"algorithm": algorithm, "files": found})
            return
        files = self._merged(iteration, algorithm, found)
        if files is None:
            return
        manifest.write_manifest(self._rank.run_paths.manifest(path), iteration, algorithm, files)
        self._last_bytes = sum(one["bytes"] for one in files.values())
        self._timeline.event(
            "checksums",
            time.monotonic() - began,
            iteration=iteration,
            files=len(files),
            bytes=self._last_bytes,
            algorithm=algorithm,
        )

    def _merged(self, iteration: int, algorithm: str, own: dict[str, FileSum]) -> Optional[dict[str, FileSum]]:
        """Return the sums of all files, once every node has left its part; None where that took too long."""
        path, end = self._checkpoint(iteration), time.monotonic() + PARTS_LIMIT_S
        while not self._over.is_set():
            files, parts = dict(own), self._parts(iteration)
            for part in parts:
                content = read_object(part) or {}
                if content.get("algorithm") == algorithm:
                    files.update(content.get("files", {}))
            missing = [name for name in manifest.file_names(path) if name not in files]
            if not missing:
                for part in parts:
                    part.unlink(missing_ok=True)
                return files
            if time.monotonic() > end:
                raise OSError(f"no node has summed {missing[0]} after {PARTS_LIMIT_S:.0f} s")
            self._over.wait(_POLL_S)
        return None

    def _is_own(self, name: str) -> bool:
        match = checkpoints.SHARD.fullmatch(name)
        if match is None:
            return self._rank.rank == 0
        return int(match[1]) // self._rank.local_world_size == self._rank.node_rank

    def _parts(self, iteration: int, attempt: Optional[str] = None) -> list[Path]:
        of_attempt = f"{_PART}{iteration:07d}-{attempt or self._rank.attempt}"
        return sorted(self._part(iteration, 0).parent.glob(f"{of_attempt}-*.json"))

    def _part(self, iteration: int, rank: int) -> Path:
        directory = self._rank.run_paths.manifest(self._checkpoint(iteration)).parent
        return directory / f"{_PART}{iteration:07d}-{self._rank.attempt}-{rank:04d}.json"

    def _checkpoint(self, iteration: int) -> Path:
        return self._directory / f"iter_{iteration:07d}"

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
