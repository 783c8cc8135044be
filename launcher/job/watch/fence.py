"""The fence before a save: an attempt that no longer owns the run saves nothing and moves no tracker.

A node that Slurm has lost may still train while the requeued job has begun the next attempt elsewhere. The lease of the
run says who owns it. One small file is read for each save.
"""

import sys
from typing import Any, Optional

from ...contract.files import read_object, read_text
from ...contract.records.ranks import StartRecord
from ...contract.records.result import SUPERSEDED
from ..rank import Rank


class SupersededError(BaseException):
    """Another attempt owns the run; a BaseException, so that no library handles it as its own error."""


class Fence:
    """Ends the ranks of an attempt that another one has superseded."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._nonce: Optional[str] = None

    def before_save(self) -> None:
        """Raise SupersededError on all ranks where rank 0 finds that another attempt owns the run: called by all."""
        found = self.superseded() if self._rank.rank == 0 else None
        if _agreed(found is not None):
            raise SupersededError(found or f"{SUPERSEDED}: another attempt owns the run")

    def before_tracker(self) -> None:
        """Raise SupersededError on rank 0, which moves the tracker, where another attempt owns the run."""
        if self._rank.rank == 0 and (found := self.superseded()) is not None:
            raise SupersededError(found)

    def superseded(self) -> Optional[str]:
        """Return by whom this attempt is superseded, in a few words; None where it owns the run, or no one does."""
        lease = read_object(self._rank.run_paths.lease)
        owner = lease.get("attempt") if lease else None
        if lease and isinstance(owner, str):
            job = f" (job {lease['job_id']})" if lease.get("job_id") else ""
            return None if owner == self._rank.attempt else f"{SUPERSEDED}: attempt {owner}{job} owns the run"
        # Without a lease the run has no owner now. That of this attempt was put aside if it is among those that ended.
        nonce = self._own_nonce()
        ended = read_object(self._rank.run_paths.ended_lease(nonce)) if nonce else None
        if ended and ended.get("attempt") == self._rank.attempt:
            return f"{SUPERSEDED}: the lease of this attempt was ended"
        return None

    def _own_nonce(self) -> Optional[str]:
        """Return the nonce of the start that this attempt belongs to; None where no record says it."""
        if self._nonce is None:
            try:
                self._nonce = StartRecord.parse(read_text(self._rank.paths.start)).nonce
            except (OSError, ValueError):
                return None
        return self._nonce


def _agreed(superseded: bool) -> bool:
    """Return what rank 0 says, on all ranks."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return superseded
    device = "cuda" if "nccl" in str(torch.distributed.get_backend()) else "cpu"
    flag = torch.tensor([int(superseded)], dtype=torch.int32, device=device)
    torch.distributed.broadcast(flag, src=0)
    return bool(flag.item())
