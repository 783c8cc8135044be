"""What a kept answer of a check depends on besides code: the files that arguments and overrides name."""

from pathlib import Path
from typing import Any, cast

from launcher.api.check_cache import named_paths
from launcher.contract.overrides import to_record
from launcher.contract.records import CheckRequest
from launcher.contract.values import parse


def named(arguments: dict[str, str], *overrides: str) -> set[str]:
    """The names of the files that a request names."""
    records = [to_record(parse(text)) for text in overrides]
    request: dict[str, Any] = {"arguments": arguments, "overrides": records, "options": {"load": False}}
    return {path.name for path in named_paths(cast(CheckRequest, request))}


def test_files_are_found_in_lists_in_directories_and_by_their_prefix(tmp_path: Path) -> None:
    for name in ("text.bin", "text.idx", "more.bin", "model/config.json", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert named({"data": f"{tmp_path}/text"}) == {"text.bin", "text.idx"}
    assert named({}, f"dataset.blend=[[{tmp_path}/text,{tmp_path}/more],null]") == {"text.bin", "text.idx", "more.bin"}
    assert named({"hf_path": f"{tmp_path}/model"}) == {"model", "config.json"}
    assert named({"note": f"{tmp_path}/notes.txt"}, "train.train_iters=3", "logger.x=/absent") == {"notes.txt"}
