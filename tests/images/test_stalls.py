"""Programs whose transfer stands still, and such that only seem to."""

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from launcher._util.shell import LocalShell
from launcher.images.build.stalls import StalledError, StallWatch, moved_bytes
from tests.images.test_build import Recorded
from tests.support.limits import seconds


def watched(moved: Sequence[int | None], waits: Callable[[float], bool] = lambda _: False) -> list[str]:
    """What is said in a minute and more; the bytes of each second are given, the last for ever."""
    now, told = [0.0], Recorded()

    def bytes_now(_: int) -> int | None:
        return moved[min(int(now[0]), len(moved) - 1)]

    watch = StallWatch("podman", told, clock=lambda: now[0], moved=bytes_now, waits=lambda _: waits(now[0]))
    for second in range(120):
        now[0] = float(second)
        try:
            watch(1)
        except StalledError as error:
            return [*told.lines, f"{second} s: {error.message}"]
    return told.lines


def test_it_says_so_and_then_ends_the_program() -> None:
    assert watched([0, 5000]) == [
        "nothing has come from the registry for 15 s; in 45 s it is ended",
        "61 s: podman has received nothing for 60 s: the transfer timed out",
    ]


def test_a_few_bytes_are_noise_and_more_are_movement() -> None:
    assert watched([second * 8 for second in range(120)])[-1].startswith("60 s: podman has received nothing")
    assert watched([second * 100 for second in range(120)]) == []
    assert len(watched([0] * 20 + [9000] * 20 + [20_000])) == 4, "said again after a pause"
    waited = watched([0] * 50 + [None] + [0] * 49 + [9000])
    assert not any("has received nothing" in line for line in waited), "waiting for a disk ends a standstill"
    assert watched([None]) == [], "what is not known is not a standstill"


def test_a_wait_for_a_lock_is_not_a_transfer_that_stands_still() -> None:
    waits = "podman waits for another program that holds a lock, as that of its storage"
    assert watched([0], waits=lambda _: True) == [waits]
    said = watched([0], waits=lambda now: 10 <= now < 50)
    assert said[0] == waits and said[-1] == "110 s: podman has received nothing for 60 s: the transfer timed out"


@pytest.mark.parametrize("lock", ["flock(file, fcntl.LOCK_EX)", "lockf(file, fcntl.LOCK_EX)"])
def test_a_real_wait_for_a_lock_is_seen(lock: str, tmp_path: Path) -> None:
    (tmp_path / "storage.lock").touch()
    program = f"import fcntl, threading\nfile = open({str(tmp_path / 'storage.lock')!r}, 'r+')\n"
    program += f"thread = threading.Thread(target=lambda: fcntl.{lock})\nthread.start()\nthread.join()"
    held, told = (tmp_path / "storage.lock").open("r+"), Recorded()
    with held:
        (fcntl.flock if lock.startswith("flock") else fcntl.lockf)(held, fcntl.LOCK_EX)
        watch = StallWatch("podman", told, notice_s=1, limit_s=2)
        with pytest.raises(Exception, match="did not end within"):
            LocalShell().stream([sys.executable, "-c", program], on_tick=watch, timeout_s=5)
    assert told.lines == ["podman waits for another program that holds a lock, as that of its storage"]


def test_a_process_that_ends_is_a_movement() -> None:
    said = watched([9000] * 50 + [100] * 50)
    assert said[-1] == "110 s: podman has received nothing for 60 s: the transfer timed out"


@pytest.mark.parametrize(
    ("program", "stands_still"),
    [
        ("import time; time.sleep(60)", True),
        ("import subprocess; subprocess.run(['setsid', '--fork', 'true']); import time; time.sleep(60)", True),
        ("while True: pass", False),
        # Its first thread waits, as that of a program in Go does.
        (
            "import hashlib, threading; data = bytes(1 << 20)\nfor _ in range(2): threading.Thread("
            "target=lambda: [hashlib.sha256(data) for _ in range(100_000)]).start()",
            False,
        ),
        ("import time\nwhile True: open('/dev/null', 'wb').write(bytes(4096)); time.sleep(0.05)", False),
        # As GNU parallel does it: a program in a process group of its own.
        (
            "import subprocess; subprocess.run([__import__('sys').executable, '-c', 'import time\\n"
            'while True: open("/dev/null", "wb").write(bytes(4096)); time.sleep(0.05)\'], process_group=0)',
            False,
        ),
    ],
)
def test_what_stands_still_is_seen_from_outside(program: str, stands_still: bool) -> None:
    watch = StallWatch("it", Recorded(), notice_s=1, limit_s=2)
    begin = time.monotonic()
    if stands_still:
        with pytest.raises(StalledError):
            LocalShell().stream([sys.executable, "-c", program], on_tick=watch, timeout_s=seconds(20))
        assert time.monotonic() - begin < seconds(10)
        return
    with pytest.raises(Exception, match="did not end within"):
        LocalShell().stream([sys.executable, "-c", program], on_tick=watch, timeout_s=5)


def test_a_session_that_is_gone_moves_nothing() -> None:
    ended = subprocess.Popen(["true"], start_new_session=True)
    ended.wait()
    assert moved_bytes(ended.pid) == 0
