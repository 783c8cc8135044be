"""What a kept answer of a check depends on besides code: the files that arguments and overrides name."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from launcher.api.check_cache import CheckCache, named_paths
from launcher.contract.overrides import to_record
from launcher.contract.records.request import CheckRequest
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


def test_an_answer_of_this_machine_in_place_of_the_image_is_not_kept(tmp_path: Path) -> None:
    """The check calls this machine's Megatron where the image cannot be entered; a later one may run in the image."""

    def kept(packages: dict[str, str], check_on: str | None = None, mcore: object = None) -> bool:
        image = SimpleNamespace(digest="1" * 64, packages=packages, architecture=None)
        inputs = SimpleNamespace(
            host=SimpleNamespace(environ={"LAUNCHER_CACHE": str(tmp_path)}, python="python3"),
            image=image,
            mcore=mcore,
            request=SimpleNamespace(check_on=check_on),
            recipe=None,
        )
        found = SimpleNamespace(inputs=inputs, release=SimpleNamespace(python=None, version="0.6.2", site=None))
        request = cast(CheckRequest, {"arguments": {}, "overrides": [], "options": {}})
        cache = CheckCache(cast(Any, found), cast(Any, SimpleNamespace(code=())), request, {})
        cache.write({"ok": True})
        return cache.read() is not None

    assert not kept({"torch": "2.9"})
    assert not kept({"torch": "2.9"}, "node", mcore=object()), "nor is one of a Megatron-Core of the user's own"
    assert kept({"torch": "2.9"}, "node")
