"""Signals that Slurm, sites and users send to every process of a step.

SIGUSR1 and SIGUSR2 end nothing: a notice before the time limit goes to all processes where `--signal` has no `B:`, and
sbatch.sh acts on the time limit itself. They stay ignored in programs that a rank starts.

SIGTERM means to save and stop if the job is being preempted or its limit is near, otherwise the end of the job. Only
Slurm's controller knows which: step.sh reports the signal, sbatch.sh asks, and either writes the file `stop`, which
rank 0 looks for after each iteration, or ends the ranks. Without an sbatch.sh (processes of one machine) SIGTERM ends
the rank at once.
"""

import signal
import time
from typing import Optional

from ..contract.paths import AttemptPaths

UNANSWERED_S = 20.0
"""After so many seconds without an answer from sbatch.sh a signalled rank saves and stops: sbatch.sh is gone."""


def ignore_notices() -> None:
    """Ignore SIGUSR1 and SIGUSR2 unless a parent or a library has given them a meaning."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)


class Termination:
    """What SIGTERM does in the training loop, in place of Bridge's handler, which saves in any case."""

    def __init__(self, paths: AttemptPaths) -> None:
        self._answered = paths.start.exists()
        self._since: Optional[float] = None

    def install(self) -> None:
        """Take the signal over. Call it after Bridge has installed its own handler."""
        signal.signal(signal.SIGTERM, self._note if self._answered else signal.SIG_DFL)

    @property
    def unanswered(self) -> bool:
        """Return whether this rank was signalled and sbatch.sh has not answered in time."""
        return self._since is not None and time.monotonic() - self._since > UNANSWERED_S

    def _note(self, _number: int, _frame: object) -> None:
        if self._since is None:
            self._since = time.monotonic()
