"""Sources of `launcher data prepare`: nothing that was given is left out in silence, and a change is noticed."""

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher._util.errors import RequestError
from launcher.api import data
from launcher.contract import preparation
from launcher.contract.events import EventWriter
from launcher.contract.preparation import PreparationPlan, PreparationRequest
from launcher.job.data import preparing, source_files
from launcher.job.data.tokenizing import Tokenizer
from launcher.job.errors import UserError

Begin = Callable[[PreparationRequest], PreparationPlan]

TOKENIZER = Tokenizer(model=None, path="/t", sha256="0", vocabulary=64, size=64, eod=2)


def asked(base: Path, source: str, **more: Any) -> PreparationRequest:
    return PreparationRequest(source=str(base / source), target=str(base / "out"), tokenizer="/t", **more)


def documents(request: PreparationRequest) -> list[str]:
    """The documents of all pieces, or what is wrong with them."""
    found = source_files.find(request)
    pieces = [piece for shard in source_files.shards(found, request) for piece in shard]
    return [row.problem or row.text for piece in pieces for row in source_files.rows(piece, found.format, request)]


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as found:
        call()
    return f"{found.value.where}: {found.value.message}"


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/a.txt").write_text("one\n")
    return tmp_path


def test_files_behind_symbolic_links_belong_to_a_directory(parts: Path) -> None:
    (parts / "elsewhere").mkdir()
    (parts / "elsewhere/b.txt").write_text("two\n")
    (parts / "parts/linked").symlink_to(parts / "elsewhere")
    (parts / "parts/loop").symlink_to(parts / "parts")
    (parts / "parts/.hidden.txt").write_text("not this\n")
    assert documents(asked(parts, "parts")) == ["one", "two"]
    (parts / "parts/gone.txt").symlink_to(parts / "nowhere")
    assert "gone.txt: this symbolic link leads to no file" in refused(lambda: documents(asked(parts, "parts")))


@pytest.mark.parametrize("name", ["b.txt.zst", "b.md.gz", "B.TXT.XZ"])
def test_a_packed_file_that_cannot_be_read_is_not_left_out(name: str, parts: Path) -> None:
    (parts / "parts" / name).write_text("")
    assert "cannot be read, and would be left out" in refused(lambda: documents(asked(parts, "parts")))
    (parts / "parts/c.jsonl").write_text('{"text": "three"}\n')
    assert documents(asked(parts, "parts", format="jsonl")) == ["three"]


@pytest.mark.parametrize(("more", "option"), [({"split": "train"}, "--split"), ({"field": "content"}, "--field")])
def test_an_option_of_another_format_is_refused(more: dict[str, str], option: str, parts: Path) -> None:
    assert refused(lambda: documents(asked(parts, "parts", **more))).startswith(option)
    (parts / "c.jsonl").write_text('{"text": "three"}\n')
    request = asked(parts, "c.jsonl", sample_by="paragraph")
    assert refused(lambda: documents(request)).startswith("--sample-by")


@pytest.mark.parametrize("sample_by", preparation.SAMPLE_BY)
def test_a_damaged_or_marked_file_of_text(sample_by: str, tmp_path: Path) -> None:
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbfone")
    assert documents(asked(tmp_path, "marked.txt", sample_by=sample_by)) == ["one"]
    whole = gzip.compress(os.urandom(9000).hex().encode())
    (tmp_path / "CUT.TXT.GZ").write_bytes(whole[:4000])
    (tmp_path / "odd.txt.gz").write_bytes(whole[:2000] + b"\xff" * 200 + whole[2200:])
    for name in ("CUT.TXT.GZ", "odd.txt.gz"):
        request = asked(tmp_path, name, sample_by=sample_by)
        assert "this file is not whole" in refused(partial(documents, request))


@pytest.fixture
def begin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Begin:
    """Begin a preparation as far as its plan."""
    monkeypatch.setattr(preparing, "_dtype", lambda _: "uint16")

    def call(request: PreparationRequest) -> PreparationPlan:
        preparing._require_target(Path(request.target))
        return preparing._plan(request, TOKENIZER, EventWriter.to_file(tmp_path / "events"))

    return call


def test_a_file_that_has_come_since_is_noticed(parts: Path, begin: Begin) -> None:
    plan = begin(asked(parts, "parts"))
    assert begin(asked(parts, "parts")) == plan
    (parts / "parts/b.txt").write_text("two\n")
    assert "b.txt: the source has 2 files, and had 1" in refused(lambda: begin(asked(parts, "parts")))


def test_a_saved_data_set_that_was_written_again_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "saved/train").mkdir(parents=True)
    (tmp_path / "saved/train/data.arrow").write_text("one")
    seen = preparing._seen(tmp_path / "saved")
    preparing._require_unchanged(seen)
    os.utime(tmp_path / "saved/train/data.arrow", ns=(1, seen["changed_ns"] + 1))
    assert "has changed" in refused(lambda: preparing._require_unchanged(seen))


def test_of_two_that_begin_at_once_one_decides(parts: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    first = asked(parts, "parts", eod=False)
    late = source_files.shards

    def other_was_faster(*arguments: Any) -> Any:
        monkeypatch.setattr(source_files, "shards", late)
        begin(first)
        return late(*arguments)

    monkeypatch.setattr(source_files, "shards", other_was_faster)
    assert "begun with eod=False" in refused(lambda: begin(asked(parts, "parts")))
    plan = preparation.read_plan(parts / "out")
    assert plan is not None and plan["request"]["eod"] is False
    assert sorted(path.name for path in (parts / "out").iterdir()) == [preparation.PLAN]


def test_a_directory_whose_plan_was_never_written_can_be_begun_again(parts: Path, begin: Begin) -> None:
    (parts / "out").mkdir()
    (parts / "out/.prepare.0123456789abcdef-1-1.partial.json").write_text("{")
    assert begin(asked(parts, "parts"))["format"] == "text"


class Builder:
    """Stands for Megatron-Core's: ids of two bytes, and an index that counts."""

    def __init__(self, path: str, dtype: object) -> None:  # noqa: ARG002
        self.path = Path(path)
        self.path.write_bytes(b"")
        self.sequence_lengths = list[int]()
        self.document_indices = [0]

    def add_document(self, document: list[int], lengths: list[int]) -> None:
        self._add(b"".join(one.to_bytes(2, "little") for one in document), lengths, 1)

    def add_index(self, prefix: str) -> None:
        lengths, documents = json.loads(Path(f"{prefix}.idx").read_text())
        self._add(Path(f"{prefix}.bin").read_bytes(), lengths, documents)

    def _add(self, content: bytes, lengths: list[int], documents: int) -> None:
        with self.path.open("ab") as file:
            file.write(content)
        self.sequence_lengths += lengths
        self.document_indices += [0] * documents

    def finalize(self, path: str) -> None:
        Path(path).write_text(json.dumps([self.sequence_lengths, len(self.document_indices) - 1]))


@pytest.fixture
def prepare(parts: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Prepare with stand-ins for the tokenizer, which gives each letter an id, and for Megatron-Core."""

    def encode(_: Tokenizer, texts: list[str], *, special_tokens: bool) -> list[list[int]]:
        return [[ord(letter) for letter in text] for text in texts]

    megatron = SimpleNamespace(
        IndexedDatasetBuilder=Builder, DType=SimpleNamespace(optimal_dtype=lambda _: SimpleNamespace(__name__="uint16"))
    )
    monkeypatch.setattr(preparing, "_megatron", lambda: megatron)
    monkeypatch.setattr(preparing, "version", lambda _: "1")
    monkeypatch.setattr("launcher.job.data.tokenizing.load", lambda _: TOKENIZER)
    monkeypatch.setattr(Tokenizer, "encode", encode)
    (parts / "parts/b.txt").write_text("two\n")

    def call(**more: Any) -> dict[str, Any]:
        request = asked(parts, "parts", **{"shard_bytes": 2, **more})
        return preparing.prepare(request, EventWriter.silent())

    return call


def test_paths_mean_what_they_mean_to_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "far/texts").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "far/texts")
    assert data._absolute(tmp_path, "linked/../corpus") == str(tmp_path.resolve() / "far/corpus")
    assert data._absolute(tmp_path, "./linked/") == str(tmp_path / "linked")
    request = replace(asked(tmp_path, "far/texts"), target=str(tmp_path / "linked/out"))
    with pytest.raises(RequestError, match="inside the source"):
        data._require_apart(request)


def test_a_directory_that_is_whole_keeps_its_form(parts: Path, prepare: Callable[..., dict[str, Any]]) -> None:
    found = prepare()
    # A kill between the manifest and the removal of what was joined leaves the ids twice.
    (parts / "out/shards/00000.bin").write_text("left")
    assert prepare()["files"] == found["files"] and not list((parts / "out/shards").glob("*.bin"))
    assert "is whole, with its shards joined" in refused(lambda: prepare(merge=False))


def test_another_process_may_join_the_shards_first(
    parts: Path, prepare: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = preparing._merged

    def later(*arguments: Any) -> Any:
        monkeypatch.setattr(preparing, "_merged", joined)
        prepare()
        return joined(*arguments)

    monkeypatch.setattr(preparing, "_merged", later)
    assert prepare()["documents"] == 2
    assert {path.suffix for path in (parts / "out/shards").iterdir()} == {".json"}


def test_a_source_that_changes_while_it_is_read_is_noticed(
    parts: Path, prepare: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    finalize = Builder.finalize

    def change(builder: Builder, path: str) -> None:
        finalize(builder, path)
        (parts / "parts/a.txt").write_text("more\n")

    monkeypatch.setattr(Builder, "finalize", change)
    assert "has changed" in refused(prepare)
    assert not list((parts / "out/shards").glob("*.json"))
