"""What signals do to a rank."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.contract.paths import AttemptPaths
from launcher.job import signals


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_notices_end_neither_a_rank_nor_a_program_that_it_starts() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    signal.signal(signal.SIGUSR2, mine := lambda *_: None)
    signals.ignore_notices()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGUSR2) is mine, "a meaning that a library has given it stays"
    script = "import os, signal; os.kill(os.getpid(), signal.SIGUSR1); print('alive')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout == "alive\n"


def test_under_slurm_sigterm_waits_for_the_answer_of_sbatch_sh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = AttemptPaths(tmp_path)
    paths.start.write_text("nonce 1 -\n")
    termination = signals.Termination(paths)
    termination.install()
    assert not termination.unanswered
    signal.raise_signal(signal.SIGTERM)
    assert not termination.unanswered
    monkeypatch.setattr(signals, "UNANSWERED_S", -1.0)
    assert termination.unanswered, "then it saves: sbatch.sh is gone"


def test_without_slurm_sigterm_ends_the_rank(tmp_path: Path) -> None:
    signals.Termination(AttemptPaths(tmp_path)).install()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
