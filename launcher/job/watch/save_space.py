"""Whether the next save fits: said before it begins, by rank 0.

A save is never left out for it, and nothing is removed: what the file system will have freed by then is not known here.
The loop waits for this, so no directory of a checkpoint is walked: at 10,000 ranks it has 20,000 files.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from ...contract import checkpoints, disk_space
from ...contract.files import read_object
from ...contract.units import bytes_text
from ..rank import Rank


class SaveSpace:
    """Compares the size of the next checkpoint with the space in its directory.

    `last_bytes` returns the size of the last one that this attempt has saved; None before its sums are done.
    """

    def __init__(
        self, rank: Rank, directory: Path, timeline: Any, last_bytes: Callable[[], Optional[int]] = lambda: None
    ) -> None:
        self._rank = rank
        self._directory = directory
        self._timeline = timeline
        self._last_bytes = last_bytes

    def before_save(self, iteration: int) -> None:
        """Say on standard error and in the timeline that the save of this iteration cannot fit, where it cannot.

        Never raises: the save itself shows what is true.
        """
        try:
            size, source = self._size()
            found = disk_space.look(self._directory)
        except Exception as error:
            print(f"warning: the space for checkpoints could not be seen: {error}", file=sys.stderr, flush=True)
            return
        if size is None or found is None or size <= found.available_bytes:
            return
        newest = checkpoints.tracked_iteration(self._directory)
        kept = f"; checkpoint {newest} stays" if newest is not None else ""
        print(
            f"warning: the save of iteration {iteration} needs about {bytes_text(size)} ({source}), and "
            f"{found.directory} has {bytes_text(found.available_bytes)} left: it cannot fit{kept}",
            file=sys.stderr,
            flush=True,
        )
        self._timeline.event("no_space", iteration=iteration, bytes=size, free_bytes=found.available_bytes)

    def _size(self) -> tuple[Optional[int], str]:
        """Return the size of the checkpoint before, else what the plan estimates, and which; None for neither."""
        if (last := self._last_bytes()) is not None:
            return last, "as the last one"
        choice: Any = read_object(self._rank.paths.checkpoint_choice) or {}
        loaded = (choice.get("verification") or {}).get("bytes") if choice.get("resumed") else None
        if loaded:
            return int(loaded), f"as checkpoint {choice['iteration']}"
        planned: Any = (read_object(self._rank.run_paths.plan_file) or {}).get("checkpoints") or {}
        size = planned.get("bytes")
        return (size if isinstance(size, int) else None), "as the plan estimates"
