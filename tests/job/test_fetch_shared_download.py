"""Downloads shared in a directory: one process works, the others wait; owners that die, hang or fail."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.contract.process import ProcessIdentity
from launcher.job.errors import UserError
from launcher.job.fetch.shared_download import HubError, Resource, SharedDownload, Timing, TransientHubError

FAST = Timing(beat_s=0.05, silent_s=0.5, stall_s=60, poll_s=0.02, report_s=0.1, settle_s=0.3)
HERE = ProcessIdentity.of_this_process().to_dict()
ELSEWHERE = {**HERE, "host": "another", "process": "rank 7 on another", "attempt": "run/000"}


def download(
    directory: Path, attempt: str = "run/000", timing: Timing = FAST, said: list[str] | None = None
) -> SharedDownload:
    say = said.append if said is not None else lambda _text: None
    return SharedDownload(
        directory / ".locks" / "launcher", Resource("key", "the resource"), attempt, "rank 0 here", say, timing
    )


def never() -> Any:
    raise AssertionError("somebody else has done the work")


def home_of(directory: Path) -> Path:
    home = directory / ".locks" / "launcher" / "key"
    home.mkdir(parents=True, exist_ok=True)
    return home


def hold(directory: Path, number: int, record: dict[str, Any]) -> Path:
    """Write the claim of another process."""
    path = home_of(directory) / f"{number:08d}"
    path.write_text(json.dumps(record))
    return path


def test_one_of_many_works_and_all_have_it(tmp_path: Path) -> None:
    done: list[int] = []
    found: list[str] = []

    def work() -> str:
        time.sleep(0.2)
        done.append(1)
        return "made"

    def take() -> None:
        found.append(download(tmp_path).run_once(lambda: "found" if done else None, work))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [1]
    assert sorted(found) == ["found"] * 7 + ["made"]


def test_all_fail_with_the_same_sentence(tmp_path: Path) -> None:
    asked: list[int] = []
    said: list[str] = []

    def work() -> str:
        asked.append(1)
        time.sleep(0.2)
        raise UserError("there is none", hint="look elsewhere")

    def take() -> None:
        with pytest.raises(UserError, match="there is none\n  look elsewhere") as caught:
            download(tmp_path).run_once(lambda: None, work)
        said.append(caught.value.message)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]
    assert said == ["there is none"] * 4
    with pytest.raises(HubError, match="there is none"):  # a rank of this attempt that comes late
        download(tmp_path).run_once(lambda: None, never)
    assert download(tmp_path, attempt="run/001").run_once(lambda: None, lambda: "now") == "now"


@pytest.mark.parametrize("raised", [HubError, TransientHubError])
def test_all_fail_for_the_same_cause(tmp_path: Path, raised: type[HubError]) -> None:
    def work() -> str:
        raise raised("the hub failed")

    for make in (work, never):
        with pytest.raises(HubError) as caught:
            download(tmp_path).run_once(lambda: None, make)
        assert type(caught.value) is raised


def test_a_silent_holder_on_another_machine_is_overtaken(tmp_path: Path) -> None:
    hold(tmp_path, 4, ELSEWHERE)
    said: list[str] = []
    started = time.monotonic()
    assert download(tmp_path, said=said).run_once(lambda: None, lambda: "mine") == "mine"
    assert time.monotonic() - started >= FAST.silent_s
    assert any("rank 7 on another is fetching the resource for all ranks" in text for text in said)
    assert sorted(path.name for path in home_of(tmp_path).iterdir()) == ["00000005", "00000005.end"]


def test_a_holder_whose_heart_beats_is_waited_for(tmp_path: Path) -> None:
    path = hold(tmp_path, 1, ELSEWHERE)
    over = threading.Event()

    def beat() -> None:
        for _ in range(40):
            path.touch()
            time.sleep(0.05)
        over.set()
        path.with_suffix(".end").write_text(json.dumps({"state": "done", "attempt": "other"}))

    thread = threading.Thread(target=beat)
    thread.start()
    assert download(tmp_path).run_once(lambda: "theirs" if over.is_set() else None, never) == "theirs"
    thread.join()


def test_a_dead_holder_on_this_machine_is_overtaken_at_once(tmp_path: Path) -> None:
    hold(tmp_path, 1, {**ELSEWHERE, **HERE, "start_ticks": 1})
    slow = Timing(silent_s=1000)
    assert download(tmp_path, timing=slow).run_once(lambda: None, lambda: "mine") == "mine"


def test_an_owner_that_was_signalled_leaves_its_download(tmp_path: Path) -> None:
    def stop() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(tmp_path).run_once(lambda: None, stop)
    assert download(tmp_path, timing=Timing(silent_s=1000)).run_once(lambda: None, lambda: "mine") == "mine"


def test_waiting_ends_where_each_owner_dies(tmp_path: Path) -> None:
    hold(tmp_path, 1, ELSEWHERE)

    def follow_each_other() -> None:
        for number in (2, 3):
            time.sleep(0.1)
            hold(tmp_path, number, ELSEWHERE)
        time.sleep(0.1)
        hold(tmp_path, 4, {**ELSEWHERE, **HERE, "start_ticks": 1})  # dead, and seen to be

    thread = threading.Thread(target=follow_each_other)
    thread.start()
    with pytest.raises(HubError, match="the resource was not fetched: 3 processes tried"):
        download(tmp_path, timing=Timing(poll_s=0.02, silent_s=1000)).run_once(lambda: None, never)
    thread.join()


def test_what_was_fetched_and_cannot_be_seen_is_an_error(tmp_path: Path) -> None:
    hold(tmp_path, 1, ELSEWHERE).with_suffix(".end").write_text(json.dumps({"state": "done", "attempt": "run/000"}))
    with pytest.raises(HubError, match="still incomplete in this cache"):
        download(tmp_path).run_once(lambda: None, never)


def test_the_works_own_trouble_with_a_disk_is_not_the_turns(tmp_path: Path) -> None:
    def full() -> str:
        raise OSError(28, "No space left on device", "/elsewhere")

    with pytest.raises(OSError, match="No space left"):
        download(tmp_path).run_once(lambda: None, full)
