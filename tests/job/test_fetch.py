"""Fetching from Hugging Face's hub: once for all ranks that share a cache, then never; and whatever goes wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.job.hub_server import hub
from tests.job.ranks import ROOT, free_port, rank_environment
from tests.support.limits import seconds

pytestmark = pytest.mark.slow

RANKS = 16
TOKEN = "hf_theValueThatNobodyMayWriteDown"
MODEL = {
    "config.json": json.dumps({"hidden_size": 64}).encode(),
    "generation_config.json": b"{}",
    "tokenizer_config.json": b'{"tokenizer_class": "PreTrainedTokenizerFast"}',
    "tokenizer.json": b'{"model": {}}' * 100,
    "model-00001-of-00002.safetensors": b"a" * 5000,
    "model-00002-of-00002.safetensors": b"b" * 5000,
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}
    ).encode(),
    "README.md": b"nobody needs this",
}
SMALL = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")
"""What a tokenizer needs of them, in the order in which it comes."""


@dataclass
class Fetching:
    """Ranks that fetch, as processes; `homes` are their HF_HOMEs."""

    processes: list[subprocess.Popen[str]]

    def results(self, timeout_s: float = 100) -> list[tuple[int, str, str]]:
        """Of each rank its status, standard output and standard error."""
        end = time.monotonic() + seconds(timeout_s)
        found = []
        for process in self.processes:
            out, err = process.communicate(timeout=max(1.0, end - time.monotonic()))
            found.append((process.returncode, out, err))
        return found

    def answers(self) -> list[dict[str, Any]]:
        found = self.results()
        assert [status for status, _, _ in found] == [0] * len(found), "\n".join(err for _, _, err in found)
        return [json.loads(out) for _, out, _ in found]

    def refusals(self) -> list[str]:
        """What each rank says in the end; all must end with status 2 and without a traceback."""
        found = self.results()
        assert [status for status, _, _ in found] == [2] * len(found), "\n".join(err for _, _, err in found)
        assert not any("Traceback" in err for _, _, err in found)
        return [err[err.index("error: ") :] for _, _, err in found]


@contextmanager
def ranks(run_dir: Path, homes: list[Path], endpoint: str, more: Mapping[str, str] | None = None) -> Iterator[Fetching]:
    run_dir.mkdir(exist_ok=True)
    processes: list[subprocess.Popen[str]] = []
    try:
        for rank, home in enumerate(homes):
            environment = {
                **rank_environment(run_dir, rank, len(homes)),
                "PYTHONPATH": str(ROOT),
                "HF_HOME": str(home),
                "HF_ENDPOINT": endpoint,
                **(more or {}),
            }
            argv = [sys.executable, str(ROOT / "tests/job/fetch_rank.py")]
            pipe = subprocess.PIPE
            processes.append(subprocess.Popen(argv, env=environment, stdout=pipe, stderr=pipe, text=True))
        yield Fetching(processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_sixteen_ranks_fetch_each_file_once_and_then_none(tmp_path: Path) -> None:
    homes = [tmp_path / "hf"] * RANKS
    with hub(models={"org/tiny": MODEL}) as server:
        with ranks(tmp_path / "one", homes, server.endpoint, {"WEIGHTS": "org/tiny"}) as running:
            answers = running.answers()
        assert len(answers) == RANKS
        assert all(one == answers[0] for one in answers)
        assert (answers[0]["offline"], answers[0]["hidden_size"], answers[0]["loaded"]) == (True, 64, [])
        shards = {path.name for path in Path(answers[0]["weights"]).glob("*.safetensors")}
        assert shards == {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
        wanted = {*SMALL, *shards, "model.safetensors.index.json"}
        assert server.bodies() == dict.fromkeys(wanted, 1)
        # Recipe, tokenizer and weights each ask whether the cached config.json is current; of all else one does.
        assert max(Counter(server.asked).values()) <= 3

        server.asked.clear()
        with ranks(tmp_path / "two", homes, server.endpoint, {"WEIGHTS": "org/tiny"}) as running:
            assert running.answers() == answers
        assert server.asked == []


def test_caches_of_two_nodes_are_filled_once_each(tmp_path: Path) -> None:
    homes = [tmp_path / "node0"] * 3 + [tmp_path / "node1"] * 3
    with hub(models={"org/tiny": MODEL}) as server, ranks(tmp_path / "run", homes, server.endpoint) as running:
        running.answers()
    assert server.bodies() == dict.fromkeys(SMALL, 2)
    assert max(Counter(server.asked).values()) <= 4


def test_another_rank_goes_on_where_the_first_is_killed(tmp_path: Path) -> None:
    homes = [tmp_path / "hf"] * 4
    with hub(models={"org/tiny": MODEL}, stalled={"tokenizer.json"}) as server:
        with ranks(tmp_path / "run", homes, server.endpoint) as running:
            server.wait_for("tokenizer.json")
            leader = holder(tmp_path / "hf")
            os.kill(leader, signal.SIGKILL)
            server.stalled.clear()
            found = running.results()
        server.go_on.set()
    assert sorted(status for status, _, _ in found) == [-signal.SIGKILL, 0, 0, 0]
    # The file that shows whether there is a tokenizer comes last.
    assert server.order() == [*SMALL, "tokenizer.json"]


def holder(home: Path) -> int:
    """Return the pid of the process that fetches, by the claim files."""
    claims = home / "hub/.locks/megatron-launcher"
    open_claims = [one for one in claims.glob("*/*") if one.suffix == "" and not one.with_suffix(".end").exists()]
    assert len(open_claims) == 1
    pid: int = json.loads(open_claims[0].read_text())["pid"]
    return pid


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        ({"models": {}}, {}, ("org/tiny does not exist on the hub", "check the name")),
        ({"token": TOKEN}, {}, ("denies access", "no token was sent", "--env HF_TOKEN")),
        ({"token": TOKEN}, {"HF_TOKEN": "hf_other"}, ("denies access", "the token in HF_TOKEN has no access")),
    ],
    ids=["404", "401 without token", "401 with another token"],
)
def test_all_ranks_end_with_one_sentence(
    tmp_path: Path, content: dict[str, Any], more: dict[str, str], words: tuple[str, ...]
) -> None:
    with hub(**{"models": {"org/tiny": MODEL}, **content}) as server:
        with ranks(tmp_path / "run", [tmp_path / "hf"] * 4, server.endpoint, more) as running:
            said = running.refusals()
        asked = [path for _, path in server.asked if "/resolve/" in path]
    assert len(set(said)) == 1
    assert all(word in said[0] for word in words), said[0]
    assert len(asked) == 1
    assert "hf_other" not in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_a_token_opens_what_is_closed(tmp_path: Path) -> None:
    with hub(models={"org/tiny": MODEL}, token=TOKEN) as server:
        with ranks(tmp_path / "run", [tmp_path / "a"] * 2, server.endpoint, {"HF_TOKEN": TOKEN}) as running:
            running.answers()
        (tmp_path / "b").mkdir()
        (tmp_path / "b/token").write_text(TOKEN)
        with ranks(tmp_path / "run", [tmp_path / "b"] * 2, server.endpoint) as running:
            running.answers()
        (tmp_path / "b/token").unlink()
    assert TOKEN not in "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_too_many_requests_are_waited_for(tmp_path: Path) -> None:
    status = {"config.json": [429, 503], "api/models/org/tiny": [429, 500], "tokenizer.json": [429]}
    homes = [tmp_path / "hf"] * 2
    with hub(models={"org/tiny": MODEL}, status=status) as server, ranks(tmp_path, homes, server.endpoint) as running:
        running.answers()
    assert not any(server.status.values())
    assert server.bodies() == dict.fromkeys(SMALL, 1)


def test_a_file_that_breaks_off_is_never_in_the_cache(tmp_path: Path) -> None:
    homes = [tmp_path / "hf"] * 2
    with hub(models={"org/tiny": MODEL}, torn={"tokenizer.json"}) as server:
        with ranks(tmp_path / "run", homes, server.endpoint) as running:
            said = running.refusals()
        assert "the connection broke repeatedly" in said[0]
        assert not list(tmp_path.glob("hf/hub/models--*/snapshots/*/tokenizer.json"))
        server.torn.clear()
        with ranks(tmp_path / "next", homes, server.endpoint) as running:
            assert running.answers()[0]["tokenizer"] == len(MODEL["tokenizer.json"])


def test_without_a_network_it_says_where_to_fetch(tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    with ranks(tmp_path / "run", [tmp_path / "hf"] * 2, endpoint) as running:
        said = running.refusals()
    assert "cannot be reached" in said[0]
    assert "launcher fetch" in said[0]
    assert said[0] == said[1]


def test_the_users_own_word_counts(tmp_path: Path) -> None:
    with hub(models={"org/tiny": MODEL}) as server:
        with ranks(tmp_path / "run", [tmp_path / "hf"], server.endpoint, {"HF_HUB_OFFLINE": "1"}) as running:
            said = running.refusals()
        assert "asking the hub is forbidden" in said[0]
        assert server.asked == []
        with ranks(tmp_path / "run", [tmp_path / "hf"], server.endpoint, {"HF_HUB_OFFLINE": "0"}) as running:
            assert running.answers()[0]["offline"] is False
        assert server.bodies() == {"config.json": 1, "tokenizer.json": 1}  # asked by the rank itself, as it needs it
    assert not (tmp_path / "hf/hub/.locks/megatron-launcher").exists()


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    homes = [tmp_path / "hf"] * 2
    homes[0].mkdir()
    (homes[0] / "hub").write_text("a file where a directory should be")
    with hub(models={"org/tiny": MODEL}) as server, ranks(tmp_path, homes, server.endpoint) as running:
        said = running.refusals()
    assert "cannot be written" in said[0]
    assert "HF_HOME" in said[0]
