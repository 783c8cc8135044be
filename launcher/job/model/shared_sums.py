"""Sums of a checkpoint that is to be loaded, shared among the nodes of an attempt.

Rank 0 asks by a file in the attempt's directory `sums`; the first rank of each other node sums its share of the shards
and answers with a file there. Both work in a thread, beside the imports of the ranks. What no node has answered is
summed by rank 0 itself, so a node that is late or gone costs time and nothing else.
"""

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from ...contract import checkpoints, manifest
from ...contract.files import read_object, write_json
from ...contract.paths import MANIFEST
from ...contract.records.checkpoints import FileSum, SumsAnswer, SumsRequest, VerifyMode
from ..rank import Rank

BUDGET_S = 120.0
"""How long sums are taken with `verify` budget."""

_PATIENCE_S = 60.0
"""How long rank 0 waits for other nodes after its own share, at least; else three times as long as that took."""

_GRACE_S = 5.0
"""How long answers are waited for after the deadline."""

_POLL_S = 0.2
_POLL_OF_MANY_S = 2.0
_MANY = 32
"""Nodes; as many ask the file system less often."""

_REQUEST = ".request.json"


class SharedSums:
    """One rank's part in the sums of the checkpoints that an attempt considers."""

    def __init__(self, rank: Rank, mode: VerifyMode) -> None:
        self._rank = rank
        self._mode = mode
        self._nodes = -(-rank.world_size // rank.local_world_size)
        self._poll_s = _POLL_S if self._nodes < _MANY else _POLL_OF_MANY_S
        self._known: dict[Path, dict[str, FileSum]] = {}
        self._locks: dict[Path, threading.Lock] = {}
        self._over = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def begin(self, directory: Optional[Path]) -> None:
        """Start beside the imports: rank 0 with the newest checkpoint in `directory`, other nodes with what it asks."""
        if self._rank.local_rank != 0 or self._mode == "sizes" or (self._rank.rank == 0 and directory is None):
            return
        work = self._serve if directory is None or self._rank.rank != 0 else lambda: self._sum_newest(directory)
        # A daemon: a process that has to end does not wait for it.
        self._thread = threading.Thread(target=work, name="shared-sums", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop: the checkpoint is chosen."""
        self._over.set()

    def take(
        self, path: Path, names: Sequence[str], algorithm: manifest.Algorithm, deadline: Optional[float]
    ) -> manifest.Summed:
        """Return sums of files of the checkpoint in `path`, and the errors of those that could not be read.

        Called on rank 0. A file is in neither if it was not done at the `deadline` (time.monotonic).
        """
        with self._locks.setdefault(path, threading.Lock()):
            known = self._known.setdefault(path, {})
            missing = [name for name in names if name not in known]
            if not missing:
                return {name: known[name] for name in names}, {}
            began = time.monotonic()
            share = missing[:: self._nodes]
            own = set(share)
            others = [name for name in missing if name not in own]
            if others:
                self._ask(path, missing, algorithm, deadline)
            found, failed = self._sum(path, share, algorithm, deadline)
            known.update(found)
            patience = max(_PATIENCE_S, 3 * (time.monotonic() - began))
            # The other nodes sum until the deadline, too, and their answers arrive after it.
            end = float("inf") if deadline is None else deadline + _GRACE_S
            answers = self._collect(path, others, min(end, time.monotonic() + patience))
            known.update(answers)
            left = [name for name in others if name not in answers]
            if left:
                more, also_failed = self._sum(path, left, algorithm, deadline)
                known.update(more)
                failed.update(also_failed)
            return {name: known[name] for name in names if name in known}, failed

    def _sum_newest(self, directory: Path) -> None:
        """Sum the checkpoint that will be considered first, if it has a manifest. What goes wrong is found later."""
        deadline = time.monotonic() + BUDGET_S if self._mode == "budget" else None
        # Only time is lost: the choice of a checkpoint reads and sums again what it needs.
        with contextlib.suppress(Exception):
            for number, path in reversed(checkpoints.iterations(directory)):
                if self._rank.run_paths.set_aside(number).exists():
                    continue
                made = manifest.read_manifest(manifest_of(self._rank, path))
                if made is not None and manifest.can_sum(made["algorithm"]):
                    self.take(path, shards(made["files"]), made["algorithm"], deadline)
                return

    def _serve(self) -> None:
        """Answer requests until the checkpoint is chosen."""
        answered: set[str] = set()
        while not self._over.is_set():
            for place in sorted(self._rank.paths.sums.glob(f"*{_REQUEST}")):
                request: Any = read_object(place)
                if place.name in answered or request is None:
                    continue
                answered.add(place.name)
                deadline = None if request["seconds"] is None else time.monotonic() + request["seconds"]
                share = request["names"][self._rank.node_rank :: self._nodes]
                found, _ = self._sum(Path(request["directory"]), share, request["algorithm"], deadline)
                answer: SumsAnswer = {"version": 1, "node": self._rank.node_rank, "files": found}
                # Without an answer the asking node sums the files itself.
                with contextlib.suppress(OSError):
                    write_json(self._answer(place.name.removesuffix(_REQUEST), self._rank.node_rank), answer)
            self._over.wait(self._poll_s)

    def _ask(self, path: Path, names: Sequence[str], algorithm: manifest.Algorithm, deadline: Optional[float]) -> None:
        request: SumsRequest = {
            "version": 1,
            "directory": str(path),
            "algorithm": algorithm,
            "names": list(names),
            "seconds": None if deadline is None else max(0.0, deadline - time.monotonic()),
        }
        # Without the request no node answers, and this one sums all files.
        with contextlib.suppress(OSError):
            self._rank.paths.sums.mkdir(parents=True, exist_ok=True)
            write_json(self._rank.paths.sums / f"{path.name}{_REQUEST}", request)

    def _collect(self, path: Path, names: Sequence[str], end: float) -> dict[str, FileSum]:
        """Return what the other nodes have answered of `names`, at the latest at `end`."""
        found: dict[str, FileSum] = {}
        wanted = set(names)
        waiting = set(range(1, self._nodes)) if names else set[int]()
        while waiting and time.monotonic() < end:
            # One listing in place of a question for each node.
            there = {place.name for place in self._rank.paths.sums.glob(f"{path.name}.*.json")}
            for node in sorted(waiting):
                place = self._answer(path.name, node)
                answer: Any = read_object(place) if place.name in there else None
                if answer is not None:
                    found.update({name: one for name, one in answer["files"].items() if name in wanted})
                    waiting.discard(node)
            if waiting:
                time.sleep(self._poll_s)
        return found

    def _sum(
        self, path: Path, names: Sequence[str], algorithm: manifest.Algorithm, deadline: Optional[float]
    ) -> manifest.Summed:
        return manifest.sum_files(
            path, names, algorithm, threads=manifest.full_speed(), deadline=deadline, stop=self._over
        )

    def _answer(self, name: str, node: int) -> Path:
        return self._rank.paths.sums / f"{name}.{node:04d}.json"


def manifest_of(rank: Rank, path: Path) -> Path:
    """Return where the manifest of a checkpoint is: in its directory, where it goes along into another run, or here."""
    inside = path / MANIFEST
    return inside if inside.exists() else rank.run_paths.manifest(path)


def shards(files: Mapping[str, FileSum]) -> list[str]:
    """Return the names of the shards among files."""
    return [name for name in files if checkpoints.SHARD.fullmatch(name)]
