"""What a configuration needs of the hub, and what counts as being in the cache."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.contract.hub import OFFLINE_VARIABLES, is_offline
from launcher.job.errors import TransientError, UserError
from launcher.job.fetch import explain, needs, offline
from launcher.job.model import hub

INDEX = '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'


def config(model: str | None = None, weights: str | None = None, load: str | None = None, **dataset: Any) -> Any:
    return SimpleNamespace(
        tokenizer=SimpleNamespace(tokenizer_type="HuggingFaceTokenizer" if model else "Null", tokenizer_model=model),
        checkpoint=SimpleNamespace(pretrained_checkpoint=weights, load=load),
        dataset=SimpleNamespace(**dataset) if dataset else None,
        peft=None,
    )


def found(made: Any, init: str | None = None) -> list[tuple[str, str]]:
    return [(need.kind, need.name) for need in needs.of_config(made, init)]


def test_what_a_configuration_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_OVERRIDES_USED", [])
    (tmp_path / "here").mkdir()
    assert found(config()) == []
    assert found(config("org/x", "org/y")) == [("tokenizer", "org/x"), ("weights", "org/y")]
    assert found(config("org/x", "org/y"), init="random") == [("tokenizer", "org/x")]
    assert found(config("org/x", "org/y", load="/runs/checkpoints")) == [("tokenizer", "org/x")]
    assert found(config("here", "/models/y")) == []
    assert found(config(hf_processor_path="org/vlm")) == [("tokenizer", "org/vlm")]
    hub._OVERRIDES_USED.append("org/z")  # the recipe took the architecture of hf_path=org/z
    assert found(config()) == [("weights", "org/z")]
    assert found(config(), init="random") == []


def test_what_is_not_understood_is_said() -> None:
    assert needs.unsupported_field(config()) is None
    assert needs.unsupported_field(config(hf_processor_path="org/vlm", hf_output_root="out")) is None
    assert needs.unsupported_field(config(hf_dataset_path="org/videos")) == "dataset.hf_dataset_path=org/videos"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of org/x in a cache of the test's own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--org--x"
    (home / "refs").mkdir(parents=True)
    (home / "refs/main").write_text("a" * 40)
    path = home / "snapshots" / ("a" * 40)
    path.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("files", "whole"),
    [
        ((), False),
        (("model.safetensors",), True),
        (("model-00001-of-00002.safetensors",), False),
        (("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), True),
        (("model.safetensors.index.json", "model-00001-of-00002.safetensors"), False),
        (
            ("model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
            True,
        ),
    ],
)
def test_weights_are_here_when_all_shards_are(snapshot: Path, files: tuple[str, ...], whole: bool) -> None:
    for name in files:
        (snapshot / name).write_text(INDEX)
    need = needs.Need("weights", "org/x")
    assert needs.is_cached(need) is None  # without config.json they cannot be read
    (snapshot / "config.json").write_text("{}")
    assert needs.is_cached(need) is (True if whole else None)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "vocab.json", "qwen.tiktoken"])
def test_a_tokenizer_is_here_when_its_vocabulary_is(snapshot: Path, name: str) -> None:
    need = needs.Need("tokenizer", "org/x")
    (snapshot / "tokenizer_config.json").write_text("{}")
    assert needs.is_cached(need) is None
    (snapshot / name).write_text("{}")
    assert needs.is_cached(need) is True
    assert needs.is_cached(needs.Need("tokenizer", "org/x", "another")) is None
    assert needs.is_cached(needs.Need("tokenizer", "org/x", "a" * 40)) is True


@pytest.fixture
def undecided() -> Iterator[None]:
    """An environment that says nothing of the hub; all as before in the end."""
    before = dict(os.environ)
    for name in (*OFFLINE_VARIABLES, offline.MARKER):
        os.environ.pop(name, None)
    yield
    offline.set_offline(False)
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("undecided")
def test_libraries_that_are_loaded_go_offline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    old = SimpleNamespace(_is_offline_mode=False)  # as transformers 4 has it
    monkeypatch.setitem(sys.modules, "transformers.utils.hub", old)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert offline.begin()
    assert (constants.HF_HUB_OFFLINE, old._is_offline_mode, os.environ["HF_DATASETS_OFFLINE"]) == (True, True, "1")
    with offline.allow_requests():
        assert (constants.HF_HUB_OFFLINE, old._is_offline_mode, is_offline(os.environ)) == (False, False, False)
    assert is_offline(os.environ)
    assert offline.begin()  # as in a program that started itself anew


@pytest.mark.parametrize("value", ["0", "1"])
@pytest.mark.usefixtures("undecided")
def test_what_the_user_said_stays(value: str) -> None:
    os.environ["HF_HUB_OFFLINE"] = value
    assert not offline.begin()
    assert os.environ["HF_HUB_OFFLINE"] == value
    assert "TRANSFORMERS_OFFLINE" not in os.environ


def test_errors_without_a_hub_in_them_are_not_explained() -> None:
    assert explain.recipe_error(ValueError("hidden_size is odd")) is None
    cause = type("LocalEntryNotFoundError", (OSError,), {})("not there")
    error = UserError("configure() failed: OSError: not there", where="x.py:3")
    error.__cause__ = cause
    told = explain.recipe_error(error)
    assert told is not None
    assert told.where == "x.py:3"
    assert "launcher fetch" in str(told)


@pytest.mark.parametrize(
    ("status", "transient"),
    [(401, False), (403, False), (404, False), (429, True), (408, True), (500, True), (503, True)],
)
def test_what_another_attempt_need_not_meet(status: int, transient: bool) -> None:
    error = RuntimeError("no")
    error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    assert isinstance(explain.hub_error(error, "x"), TransientError) is transient
    assert isinstance(explain.recipe_error(error), TransientError) is transient


def test_no_connection_is_one_that_may_come_back() -> None:
    for name in ("ConnectTimeout", "IncompleteRead"):
        assert isinstance(explain.hub_error(type(name, (Exception,), {})("x"), "x"), TransientError)
    assert not isinstance(explain.hub_error(ValueError("x"), "x"), TransientError)


def test_a_full_disk_is_said_as_such() -> None:
    told = explain.hub_error(OSError(28, "No space left on device", "/hf/blobs/x"), "the weights of org/x")
    assert "cannot be written" in told.message
    assert "No space left on device" in told.message
