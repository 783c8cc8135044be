"""Checkpoints are summed when a save is final, verified before they are loaded, and set aside where they are damaged.

Tier: quick (no torch, no processes), about 15 s.
"""

import json
import os
import pickle
import random
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.contract import checkpoints, disk_space, manifest
from launcher.contract.files import write_json
from launcher.contract.paths import MANIFEST, RunPaths
from launcher.contract.records.checkpoints import (
    CheckpointChoice,
    FileSum,
    SetAside,
    SumsAnswer,
    SumsRequest,
    VerifyMode,
)
from launcher.contract.validation import problems
from launcher.job.config import choices
from launcher.job.errors import TransientError, UserError
from launcher.job.model import loading, shared_sums
from launcher.job.model.shared_sums import SharedSums
from launcher.job.rank import Rank, read_rank
from launcher.job.watch.checkpoint_sums import CheckpointSums
from launcher.job.watch.save_space import SaveSpace
from tests.job.checkpoint_files import damaged, empty_metadata, record_sums, unreadable, write_checkpoint
from tests.job.ranks import rank_environment
from tests.support.limits import seconds
from tests.support.quick import few

PLACES = few(40)


def resuming(run: Path, rank: int = 0) -> Rank:
    return read_rank(rank_environment(run, rank, 2, "001"))


def resume(run: Path, verify: VerifyMode = "full", directory: Path | None = None) -> CheckpointChoice:
    return choices.resumed(resuming(run), directory or run / "checkpoints", None, "torch_dist", verify)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the checkpoints 10 and 20, both with a manifest."""
    directory = tmp_path / "run"
    for step in (10, 20):
        record_sums(directory, write_checkpoint(directory / "checkpoints", step))
    return directory


@pytest.mark.parametrize("kind", ["flip", "cut", "zeros"])
def test_a_damaged_file_is_never_loaded_and_the_next_older_checkpoint_is(
    run: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)
    numbers = random.Random(kind)  # noqa: S311 - places of damage
    newest = run / "checkpoints" / "iter_0000020"
    names = sorted(path.name for path in newest.iterdir())
    kinds = {"__0_0.distcp", ".metadata", "common.pt", "metadata.json", "train_state.pt", "run_config.yaml", MANIFEST}
    assert kinds <= {*names}
    for name in names:
        content = (newest / name).read_bytes()
        for _ in range(PLACES):
            place, bit = numbers.randrange(len(content)), numbers.randrange(8)
            (newest / name).write_bytes(damaged(content, kind, place, bit))
            choice = resume(run)
            where = f"{kind} of {name} at byte {place}, bit {bit}"
            assert choice["iteration"] == choice["ckpt_step"] == 10, where
            (passed,) = choice["passed_over"]
            assert (passed["iteration"], passed["file"], passed["set_aside"]) == (20, name, True), where
            RunPaths(run).set_aside(20).unlink()
        (newest / name).write_bytes(content)
    assert resume(run)["iteration"] == 20, "what was restored is loaded"


@pytest.mark.parametrize("name", ["latest_train_state.pt", "latest_checkpointed_iteration.txt"])
def test_a_damaged_tracker_changes_nothing(run: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)
    tracker, numbers = run / "checkpoints" / name, random.Random(name)  # noqa: S311 - places of damage
    content = tracker.read_bytes()
    for kind in ("flip", "cut", "zeros"):
        for _ in range(PLACES):
            place, bit = numbers.randrange(len(content)), numbers.randrange(8)
            tracker.write_bytes(damaged(content, kind, place, bit))
            choice = resume(run)
            # Bridge does not read its trackers where it is given the iteration.
            assert (choice["iteration"], choice["ckpt_step"]) == (20, 20), f"{kind} at byte {place}, bit {bit}"
            assert choice["passed_over"] == []


@pytest.mark.parametrize("text", ["", "\x00\xff", "30", "2O"])
def test_a_checkpoint_that_the_user_named_is_refused_where_its_tracker_is_damaged(
    tmp_path: Path, run: Path, text: str
) -> None:
    elsewhere = (run / "checkpoints").rename(tmp_path / "elsewhere")
    choice = choices.allowed(resuming(run), elsewhere, None, "torch_dist", "full")
    assert (choice["iteration"], choice["ckpt_step"]) == (20, 20), "Bridge loads the iteration that was verified"
    (elsewhere / "latest_checkpointed_iteration.txt").write_text(text)
    with pytest.raises(UserError, match="names no checkpoint that is there") as refused:
        choices.allowed(resuming(run), elsewhere, None, "torch_dist", "full")
    assert "checkpoint.ckpt_step=" in (refused.value.hint or "")
    assert choices.allowed(resuming(run), elsewhere, 10, "torch_dist", "full")["iteration"] == 10


@pytest.mark.parametrize("name", ["__1_0.distcp", ".metadata", "common.pt", "train_state.pt", MANIFEST])
def test_a_missing_file_is_damage_but_a_missing_manifest_is_said(run: Path, name: str) -> None:
    (run / "checkpoints" / "iter_0000020" / name).unlink()
    choice = resume(run)
    if name == MANIFEST:
        assert choice["iteration"] == 20
        assert choice["verification"] is not None
        assert choice["verification"]["state"] == "unverified"
    else:
        assert choice["iteration"] == 10


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("__0_0.distcp", bytes(1000), "holds zeros"),
        ("train_state.pt", b"PK\x03\x04 and no more", "not a whole archive"),
        ("common.pt", b"", "not a whole archive"),
        ("common.pt", None, "is missing"),
        ("metadata.json", b"\x00\xff{{{", "does not name the format"),
        (".metadata", empty_metadata(), "cannot be read"),
        (".metadata", b"garbage", "cannot be read"),
    ],
    ids=[
        *("zero-filled shard", "cut train state", "cut common state", "no common state"),
        *("garbage in metadata.json", "no storage_data", "garbage in .metadata"),
    ],
)
def test_damage_that_the_structure_shows_needs_no_manifest(
    run: Path, name: str, content: bytes | None, words: str
) -> None:
    path = run / "checkpoints" / "iter_0000020"
    (path / MANIFEST).unlink()
    (path / name).unlink() if content is None else (path / name).write_bytes(content)
    choice = resume(run, "sizes")
    assert choice["iteration"] == 10
    assert [(passed["iteration"], passed["file"]) for passed in choice["passed_over"]] == [(20, name)]
    assert words in choice["passed_over"][0]["reason"]


def test_a_checkpoint_whose_shards_hold_the_common_state_needs_no_common_file(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 10, common_file=False)
    assert not (path / "common.pt").exists()
    assert checkpoints.is_complete(path)


@pytest.mark.parametrize("whole", [True, False], ids=["the whole checkpoint", "its manifest"])
@pytest.mark.parametrize("mode", ["sizes", "full"])
def test_what_is_that_of_another_iteration_is_not_loaded(run: Path, mode: VerifyMode, whole: bool) -> None:
    """Copied by hand, or by a file system that mixes up two files. Sizes are those of any checkpoint of the run."""
    saved = run / "checkpoints"
    names = [path.name for path in (saved / "iter_0000010").iterdir()] if whole else [MANIFEST]
    for name in names:
        (saved / "iter_0000020" / name).write_bytes((saved / "iter_0000010" / name).read_bytes())
    choice = resume(run, mode)
    assert (choice["iteration"], choice["passed_over"][0]["reason"]) == (10, "is that of iteration 10")


def test_a_marker_names_iteration_file_and_reason_and_holds_for_later_attempts(run: Path) -> None:
    shard = run / "checkpoints" / "iter_0000020" / "__0_0.distcp"
    content = shard.read_bytes()
    shard.write_bytes(content[:500] + bytes(64) + content[564:])
    resume(run)
    marker = json.loads(RunPaths(run).set_aside(20).read_text())
    assert list(problems(marker, SetAside)) == []
    assert (marker["iteration"], marker["file"]) == (20, "__0_0.distcp")
    assert "its sum is not the one that was recorded" in marker["reason"]
    shard.write_bytes(content)
    assert resume(run)["iteration"] == 10


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "train_state.pt", MANIFEST])
@pytest.mark.parametrize("sums", [True, False], ids=["with sums", "without"])
def test_a_file_that_cannot_be_read_is_not_damage(
    run: Path, name: str, sums: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = run / "checkpoints" / "iter_0000020"
    if not sums and name != MANIFEST:
        (newest / MANIFEST).unlink()
    with monkeypatch.context() as patch:
        unreadable(patch, newest / name, "open")
        choice = resume(run)
        assert choice["iteration"] == 10
        (passed,) = choice["passed_over"]
        assert (passed["iteration"], passed["set_aside"]) == (20, False)
        assert (passed["file"], "cannot be read (Input/output error)" in passed["reason"]) == (name, True)
        with pytest.raises(OSError, match="Input/output error"):
            choices.resumed(resuming(run), run / "checkpoints", 20, "torch_dist", "full")
        (run / "checkpoints" / "iter_0000010" / "common.pt").unlink()
        with pytest.raises(OSError, match="Input/output error"):
            resume(run)
    assert resume(run)["iteration"] == 20, "no marker was written"


def test_a_checkpoint_that_the_user_names_is_not_set_aside_any_more(run: Path) -> None:
    shard = run / "checkpoints" / "iter_0000010" / "__0_0.distcp"
    content = shard.read_bytes()
    shard.write_bytes(b"damaged")
    marker = RunPaths(run).set_aside(10)
    marker.parent.mkdir()
    marker.write_text(json.dumps({"file": "x", "reason": "y", "directory": str(shard.parent)}))
    with pytest.raises(UserError, match="is not whole"):
        choices.resumed(resuming(run), run / "checkpoints", 10, "torch_dist", "full")
    assert marker.exists()
    shard.write_bytes(content)
    choice = choices.resumed(resuming(run), run / "checkpoints", 10, "torch_dist", "full")
    assert [one["iteration"] for one in choice["passed_over"]] == [20]
    assert not marker.exists()
    assert resume(run)["iteration"] == 10, "the next attempt continues from the one that was named"


def test_a_marker_that_cannot_be_read_counts(run: Path) -> None:
    marker = RunPaths(run).set_aside(20)
    marker.parent.mkdir()
    marker.write_text("{")
    choice = resume(run)
    assert (choice["iteration"], choice["passed_over"][0]["set_aside"]) == (10, True)


def test_in_a_directory_outside_the_run_nothing_is_changed(tmp_path: Path, run: Path) -> None:
    elsewhere = (run / "checkpoints").rename(tmp_path / "elsewhere")
    shard = elsewhere / "iter_0000020" / "__0_0.distcp"
    shard.write_bytes(bytes(10) + shard.read_bytes()[10:])
    before = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=r"iter_0000020 is not whole: __0_0\.distcp is damaged") as refused:
        resume(run, directory=elsewhere)
    assert refused.value.where == str(shard)
    with pytest.raises(UserError, match=r"__0_0\.distcp is damaged"):
        choices.allowed(resuming(run), elsewhere, None, "torch_dist", "full")
    after = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")}
    assert after == before
    assert choices.allowed(resuming(run), elsewhere, 10, "torch_dist", "full")["load"] == str(elsewhere)


def test_an_unfinished_save_outside_the_run_is_passed_over(tmp_path: Path, run: Path) -> None:
    elsewhere = (run / "checkpoints").rename(tmp_path / "elsewhere")
    (elsewhere / "iter_0000030").mkdir()
    choice = resume(run, directory=elsewhere)
    assert choice["iteration"] == 20
    assert [passed["set_aside"] for passed in choice["passed_over"]] == [False]
    assert not RunPaths(run).set_aside_directory.exists()


def test_what_is_verified_depends_on_the_mode_and_is_recorded(run: Path) -> None:
    path = run / "checkpoints" / "iter_0000020"
    where = path / MANIFEST

    def verified(mode: VerifyMode, deadline: float | None = None) -> Any:
        verdict = manifest.verify(path, where, "torch_dist", mode, deadline=deadline)
        assert verdict.problem is None
        return verdict.verification

    whole = verified("full")
    assert (whole["state"], whole["verified_files"], whole["files"]) == ("verified", 7, 7)
    part = verified("budget", time.monotonic() - 1)
    assert (part["state"], part["verified_files"]) == ("partly verified", 5)
    assert part["bytes"] - part["verified_bytes"] == 1900
    assert "not verified: 2 files" in manifest.describe(part)
    shard = path / "__0_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    assert verified("sizes")["state"] == "sizes only"


def test_without_xxhash_sums_are_crc32_and_others_are_said_to_be_unverified(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run / "checkpoints" / "iter_0000020"
    monkeypatch.setitem(__import__("sys").modules, "xxhash", None)
    found = manifest.verify(path, path / MANIFEST, "torch_dist", "full").verification
    assert found is not None
    assert (found["state"], found["verified_files"]) == ("sizes only", 0)
    record_sums(run, path)
    assert json.loads((path / MANIFEST).read_text())["algorithm"] == "crc32"
    found = manifest.verify(path, path / MANIFEST, "torch_dist", "full").verification
    assert found is not None
    assert found["state"] == "verified"


def test_all_ranks_follow_the_record_of_rank_0(run: Path) -> None:
    def other() -> CheckpointChoice:
        raise AssertionError("only rank 0 chooses")

    first = choices.agreed(resuming(run), "full", lambda: resume(run))
    record = resuming(run).paths.checkpoint_choice
    assert list(problems(json.loads(record.read_text()), CheckpointChoice)) == []
    assert choices.agreed(resuming(run, 1), "full", other) == first
    assert first["iteration"] == 20


def test_all_ranks_refuse_what_rank_0_refuses(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (run / "checkpoints").glob("iter_*"):
        (path / "__0_0.distcp").write_bytes(b"")
    words = r"none of the checkpoints .* \(iterations: 10, 20\); 20: __0_0\.distcp has 0 bytes where 1000 were written"
    for rank in (0, 1):
        with pytest.raises(UserError, match=words):
            choices.agreed(resuming(run, rank), "budget", lambda: resume(run))
    monkeypatch.setitem(choices.WAIT_S, "budget", 0.1)
    resuming(run).paths.checkpoint_choice.unlink()
    with pytest.raises(TransientError, match="rank 0 has not chosen"):
        choices.agreed(resuming(run, 1), "budget", lambda: resume(run))


def test_no_rank_takes_an_unreadable_file_system_for_a_wrong_request(run: Path) -> None:
    def choose() -> CheckpointChoice:
        raise OSError(5, "Input/output error", str(run))

    for rank in (0, 1):
        with pytest.raises(TransientError, match=r"cannot be read: .*Input/output error"):
            choices.agreed(resuming(run, rank), "budget", choose)


class Noted:
    """A timeline that keeps its events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def event(self, name: str, seconds: float | None = None, **more: Any) -> None:
        self.events.append({"event": name, "seconds": seconds, **more})


def on_node(run: Path, node: int, attempt: str = "001") -> Rank:
    """The one rank of a node, of two."""
    return read_rank(rank_environment(run, node, 2, attempt, nodes=2))


@pytest.fixture
def other_node(run: Path) -> Iterator[SharedSums]:
    """A second node that sums what it is asked."""
    sums = SharedSums(on_node(run, 1), "full")
    sums.begin(None)
    yield sums
    sums.end()


def resume_on_two_nodes(run: Path, sums: SharedSums) -> CheckpointChoice:
    return choices.resumed(on_node(run, 0), run / "checkpoints", None, "torch_dist", "full", sums)


def test_the_nodes_share_the_sums_of_a_checkpoint_that_is_to_be_loaded(
    run: Path, other_node: SharedSums, monkeypatch: pytest.MonkeyPatch
) -> None:
    summed = note_sums(monkeypatch)
    choice = resume_on_two_nodes(run, SharedSums(on_node(run, 0), "full"))
    assert choice["iteration"] == 20
    assert choice["verification"] is not None
    assert choice["verification"]["state"] == "verified"
    directory = resuming(run).paths.sums
    request = json.loads((directory / "iter_0000020.request.json").read_text())
    answer = json.loads((directory / "iter_0000020.0001.json").read_text())
    assert not [*problems(request, SumsRequest), *problems(answer, SumsAnswer)]
    assert sorted(request["names"]) == ["__0_0.distcp", "__1_0.distcp"]
    assert [*answer["files"]] == request["names"][1:], "each node takes its share"
    assert sorted(name for name in summed if name.endswith(".distcp")) == sorted(request["names"]), "once each"


@pytest.mark.parametrize("name", ["__0_0.distcp", "__1_0.distcp"])
def test_damage_in_the_share_of_any_node_is_found(run: Path, other_node: SharedSums, name: str) -> None:
    shard = run / "checkpoints" / "iter_0000020" / name
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    choice = resume_on_two_nodes(run, SharedSums(on_node(run, 0), "full"))
    assert choice["iteration"] == 10
    assert choice["verification"] is not None
    assert choice["verification"]["state"] == "verified"
    assert [passed["file"] for passed in choice["passed_over"]] == [name]


def test_what_a_node_does_not_answer_rank_0_sums_itself(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_sums, "_PATIENCE_S", 0.1)
    choice = resume_on_two_nodes(run, SharedSums(on_node(run, 0), "full"))
    assert choice["verification"] is not None
    assert (choice["iteration"], choice["verification"]["state"]) == (20, "verified")


def test_answers_that_arrive_after_the_deadline_count(run: Path, other_node: SharedSums) -> None:
    path = run / "checkpoints" / "iter_0000020"
    time.sleep(0.1)  # the other node looks for requests five times a second
    sums = SharedSums(on_node(run, 0), "budget")
    found, _ = sums.take(path, ["__0_0.distcp", "__1_0.distcp"], "crc32", time.monotonic() + 0.08)
    assert sorted(found) == ["__0_0.distcp", "__1_0.distcp"]


def test_the_newest_checkpoint_is_summed_beside_the_imports(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summed = note_sums(monkeypatch)
    sums = SharedSums(resuming(run), "full")
    sums.begin(run / "checkpoints")
    end = time.monotonic() + seconds(10)
    while sum(name.endswith(".distcp") for name in summed) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    choice = choices.resumed(resuming(run), run / "checkpoints", None, "torch_dist", "full", sums)
    assert choice["verification"] is not None
    assert (choice["iteration"], choice["verification"]["state"]) == (20, "verified")
    assert sorted(name for name in summed if name.endswith(".distcp")) == ["__0_0.distcp", "__1_0.distcp"]


def note_sums(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each file that is summed."""
    summed, sum_file = list[str](), manifest._sum_file

    def noted(path: Path, *arguments: Any) -> Any:
        summed.append(path.name)
        return sum_file(path, *arguments)

    monkeypatch.setattr(manifest, "_sum_file", noted)
    return summed


def test_without_sums_a_damaged_checkpoint_that_cannot_be_loaded_is_set_aside(run: Path) -> None:
    (run / "checkpoints" / "iter_0000020" / MANIFEST).unlink()
    choice = resume(run)
    assert choice["iteration"] == 20
    assert loading.mark(resuming(run), choice, "EOFError: ").endswith("the next attempt continues from an older one")
    marker = json.loads(RunPaths(run).set_aside(20).read_text())
    assert list(problems(marker, SetAside)) == []
    again = resume(run)
    assert again["iteration"] == 10
    assert again["passed_over"][0]["reason"] == "could not be loaded (EOFError: )"


def test_a_failed_loading_sets_nothing_aside_that_may_be_whole(tmp_path: Path, run: Path) -> None:
    assert "its files are as they were saved" in loading.mark(resuming(run), resume(run), "EOFError: ")
    elsewhere = (run / "checkpoints").rename(tmp_path / "elsewhere")
    (elsewhere / "iter_0000020" / MANIFEST).unlink()
    said = loading.mark(resuming(run), resume(run, directory=elsewhere), "EOFError: ")
    assert "nothing is changed in a directory outside the run" in said
    assert not RunPaths(run).set_aside_directory.exists()


def test_damage_is_distinguished_from_other_failures_of_loading() -> None:
    def raised(read: Any) -> BaseException:
        with pytest.raises(Exception) as caught:
            read()
        return caught.value

    assert loading.damage_in(raised(lambda: json.loads("{"))) is not None
    assert loading.damage_in(raised(lambda: pickle.loads(b"garbage")))  # noqa: S301 is not None
    below_a_reader = raised(lambda: zipfile.ZipFile(Path(__file__)))
    assert loading.damage_in(below_a_reader) is not None
    wrapped = RuntimeError("load failed")
    wrapped.__cause__ = below_a_reader
    assert loading.damage_in(wrapped) is not None
    of_ranks = RuntimeError("CheckpointException ranks: [1]")
    of_ranks.failures = {1: (below_a_reader, [])}  # type: ignore[attr-defined]
    assert loading.damage_in(of_ranks) is not None
    for other in (
        RuntimeError("size mismatch for decoder.weight"),
        KeyError("decoder.layers.4"),
        OSError(5, "Input/output error"),
        MemoryError(),
        RuntimeError("CUDA out of memory"),
        ConnectionResetError("Connection reset by peer"),
    ):
        assert loading.damage_in(other) is None, other


def two_nodes(run: Path, attempt: str = "000") -> tuple[list[CheckpointSums], Noted]:
    """The parts of two nodes with one rank each, at the beginning of the training loop."""
    timeline, parts = Noted(), []
    run.mkdir(exist_ok=True)
    for rank in (0, 1):
        parts.append(CheckpointSums(on_node(run, rank, attempt), run / "checkpoints", timeline))
        parts[-1].begin(0)
    return parts, timeline


def test_each_node_sums_its_shards_and_rank_0_writes_the_manifest(tmp_path: Path) -> None:
    run = tmp_path / "run"
    nodes, timeline = two_nodes(run)
    path = write_checkpoint(run / "checkpoints", 10)
    for node in reversed(nodes):
        node.look()
        node.look()
    for node in reversed(nodes):
        node.finish(20)
    made = manifest.read_manifest(path / MANIFEST)
    assert made is not None
    assert sorted(made["files"]) == manifest.file_names(path)
    assert [entry.name for entry in path.iterdir() if "launcher-" in entry.name] == [MANIFEST]
    assert [(event["event"], event["iteration"], event["files"]) for event in timeline.events] == [("checksums", 10, 7)]
    assert resume(run)["verification"] == manifest.verify(path, path / MANIFEST, "torch_dist", "full").verification


def test_a_save_that_is_not_final_is_not_summed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    nodes, _ = two_nodes(run)
    path = write_checkpoint(run / "checkpoints", 10)
    (path.parent / "latest_checkpointed_iteration.txt").write_text("0")
    for node in nodes:
        node.look()
    assert not (path / MANIFEST).exists()
    # An asynchronous save becomes final at the end of the run.
    (path.parent / "latest_checkpointed_iteration.txt").write_text("10")
    for node in reversed(nodes):
        node.finish(20)
    assert (path / MANIFEST).exists()


def test_an_asynchronous_save_is_summed_when_it_becomes_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.job.watch.checkpoint_sums._FINAL_POLL_S", 0.05)
    run = tmp_path / "run"
    nodes, timeline = two_nodes(run)
    path = write_checkpoint(run / "checkpoints", 10)
    tracker = path.parent / "latest_checkpointed_iteration.txt"
    tracker.unlink()
    for node in nodes:
        node.look(10)
    time.sleep(0.2)
    assert not (path / MANIFEST).exists()
    tracker.write_text("10")
    end = time.monotonic() + seconds(10)
    while not (path / MANIFEST).exists():
        assert time.monotonic() < end, "the next save, or the end of the run, is not waited for"
        time.sleep(0.02)
    for node in nodes:
        node.finish(20)
    assert [(event["event"], event["iteration"]) for event in timeline.events] == [("checksums", 10)]


def test_the_checkpoint_that_was_loaded_gets_no_sums_after_the_fact(run: Path) -> None:
    before = (run / "checkpoints" / "iter_0000020" / MANIFEST).stat().st_mtime_ns
    nodes, timeline = two_nodes(run, "001")
    for node in nodes:
        node.begin(20)
        node.look()
        node.finish(20)
    assert (run / "checkpoints" / "iter_0000020" / MANIFEST).stat().st_mtime_ns == before
    assert timeline.events == []


def test_after_a_rollback_the_tracker_of_before_undoes_no_marker(run: Path) -> None:
    """An asynchronous save of 15 is in flight, and the tracker still names 20, which was left."""
    choices.resumed(resuming(run), run / "checkpoints", 10, "torch_dist", "full")
    made, marker = run / "checkpoints" / "iter_0000020" / MANIFEST, RunPaths(run).set_aside(20)
    before = made.stat().st_ino
    nodes, timeline = two_nodes(run, "001")
    for node in nodes:
        node.begin(10)
        node.look(15)
    assert marker.exists()
    write_checkpoint(run / "checkpoints", 15)
    for node in reversed(nodes):
        node.finish(20)
    assert [(event["event"], event["iteration"]) for event in timeline.events] == [("checksums", 15)]
    assert marker.exists()
    assert made.stat().st_ino == before
    nodes, timeline = two_nodes(run, "002")
    tracker = run / "checkpoints" / "latest_checkpointed_iteration.txt"
    tracker.write_text("20")
    os.utime(tracker, (1000, 1000))
    for node in nodes:
        node.begin(15)
    write_checkpoint(run / "checkpoints", 20)
    for node in reversed(nodes):
        node.finish(20)
    assert [event["iteration"] for event in timeline.events] == [20], "the same number again is another save"
    assert not marker.exists()


def test_sharing_thousands_of_shards_takes_no_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"__{number}_0.distcp" for number in range(20_000)]
    one: FileSum = {"bytes": 1, "sum": "0"}
    sums = SharedSums(on_node(run, 0), "full")
    monkeypatch.setattr(manifest, "sum_files", lambda _, asked, *__, **___: (dict.fromkeys(asked, one), {}))
    answer = {"files": dict.fromkeys(names[1::2], one)}
    monkeypatch.setattr(sums, "_ask", lambda *_: write_json(sums._answer("iter_0000020", 1), answer))
    began = time.process_time()
    found, failed = sums.take(run / "checkpoints" / "iter_0000020", names, "crc32", None)
    assert (len(found), failed) == (20_000, {})
    assert time.process_time() - began < seconds(1)


def test_a_later_save_of_the_iteration_replaces_manifest_and_marker(run: Path) -> None:
    path = run / "checkpoints" / "iter_0000020"
    (path / "__0_0.distcp").write_bytes(b"damaged")
    assert resume(run)["iteration"] == 10
    nodes, _ = two_nodes(run, "001")
    (path / "__0_0.distcp").unlink()
    write_checkpoint(run / "checkpoints", 20)
    for node in reversed(nodes):
        node.look()
        node.finish(20)
    assert not RunPaths(run).set_aside(20).exists()
    choice = resume(run)
    assert choice["iteration"] == 20
    assert choice["verification"] is not None
    assert choice["verification"]["state"] == "verified"


def test_a_directory_outside_the_run_gets_no_manifest(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    environment = {**rank_environment(run, 0, 1), "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}
    sums = CheckpointSums(read_rank(environment), elsewhere, Noted())
    sums.begin(0)
    path = write_checkpoint(elsewhere, 10)
    names = sorted(entry.name for entry in path.iterdir())
    sums.look()
    sums.finish(20)
    assert sorted(entry.name for entry in path.iterdir()) == names
    assert len(list(RunPaths(run).manifests.iterdir())) == 1
    shard = path / "__1_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=r"__1_0\.distcp is damaged"):
        resume(run, directory=elsewhere)


def test_the_launchers_own_files_are_not_part_of_a_checkpoint(run: Path) -> None:
    path = run / "checkpoints" / "iter_0000020"
    names = manifest.file_names(path)
    for name in (".launcher-sums-0000020-000-0001.json.7.tmp", f".{MANIFEST}.7.tmp", ".nfs0001"):
        (path / name).write_text("")
    assert manifest.file_names(path) == names


def test_shard_names_say_which_rank_wrote_them() -> None:
    match = checkpoints.SHARD.fullmatch("__12_3.distcp")
    assert match is not None
    assert match[1] == "12"


@pytest.mark.parametrize(
    ("last", "planned", "says"),
    [
        (5000, None, "needs about 4.9 KiB (as the last one)"),
        (4000, None, None),
        (None, 9000, "needs about 8.8 KiB (as the plan estimates)"),
        (None, None, None),
    ],
)
def test_a_save_that_cannot_fit_is_said_and_nothing_is_removed(
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    last: int | None,
    planned: int | None,
    says: str | None,
) -> None:
    before = sorted(run.rglob("*"))
    found = disk_space.DiskSpace(str(run / "checkpoints"), 4000, 10**9, None, None)
    monkeypatch.setattr(disk_space, "look", lambda _: found)
    if planned is not None:
        (run / "plan.json").write_text(json.dumps({"checkpoints": {"bytes": planned}}))
        before = sorted(run.rglob("*"))
    timeline = Noted()
    SaveSpace(resuming(run), run / "checkpoints", timeline, lambda: last).before_save(30)
    said = capsys.readouterr().err
    if says is None:
        assert (said, timeline.events) == ("", [])
    else:
        assert f"the save of iteration 30 {says}" in said
        assert "has 3.9 KiB left: it cannot fit; checkpoint 20 stays" in said
        (event,) = timeline.events
        assert (event["event"], event["bytes"], event["free_bytes"]) == ("no_space", last or planned, 4000)
    assert sorted(run.rglob("*")) == before


def test_the_size_of_the_next_save_is_that_of_the_checkpoint_that_was_loaded(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = choices.agreed(resuming(run), "full", lambda: resume(run))
    assert choice["verification"] is not None
    size = choice["verification"]["bytes"]
    found = disk_space.DiskSpace("/d", size - 1, 10**9, None, None)
    monkeypatch.setattr(disk_space, "look", lambda _: found)
    SaveSpace(resuming(run), run / "checkpoints", Noted()).before_save(30)
    assert "(as checkpoint 20)" in capsys.readouterr().err
