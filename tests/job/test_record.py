"""The record of a rank's end."""

import json
import os
from pathlib import Path

import pytest

from launcher.contract.files import write_json
from launcher.contract.records.ranks import RankOutcome
from launcher.job import record
from launcher.job.errors import TransientError, UserError
from launcher.job.fetch.shared_download import HubError, TransientHubError
from launcher.job.rank import Rank, read_rank
from tests.job.ranks import rank_environment
from tests.support.rank_ends import leave


@pytest.fixture
def rank(tmp_path: Path) -> Rank:
    return read_rank(rank_environment(tmp_path, 3, 4))


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_end_is_written_with_what_the_waiting_side_needs(rank: Rank) -> None:
    record.write_end(rank, record.End("stopped", "signal SIGTERM", 7))
    (path,) = (rank.paths.path / "ranks").iterdir()
    assert path.name == "node-0000.jsonl"
    content = json.loads(path.read_text())
    assert content["pid"] == os.getpid()
    keys = {"version", "rank", "host", "pid", "outcome", "reason", "iteration", "time", "exception", "cause"}
    assert content.keys() == keys
    assert (content["outcome"], content["reason"], content["iteration"]) == ("stopped", "signal SIGTERM", 7)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    recursive: list[object] = []
    recursive.append(recursive)
    with pytest.raises(ValueError, match="Circular"):
        write_json(path, recursive)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("line", [{"outcome": "finished"}, "137 10 n1"], ids=["record", "exit"])
def test_an_attempt_that_this_rank_has_ended_in_is_refused(rank: Rank, line: dict[str, str] | str) -> None:
    record.refuse_second_start(rank)
    rank.paths.ranks.mkdir(parents=True)
    leave(rank.paths, 3, line)
    with pytest.raises(UserError, match=r"attempt 000 of .* was used already"):
        record.refuse_second_start(rank)


def test_the_record_of_another_rank_refuses_nothing(rank: Rank) -> None:
    rank.paths.ranks.mkdir(parents=True)
    leave(rank.paths, 0, {"outcome": "finished"})
    record.refuse_second_start(rank)


@pytest.mark.parametrize(
    ("error", "cause", "status"),
    [
        (UserError("no such key"), "user", 2),
        (TransientError("rank 0 has not chosen a checkpoint after 1800 s"), "outside", 1),
        (TransientHubError("the hub failed"), "outside", 1),
        (HubError("the hub denies access"), "user", 2),
        (ValueError("x"), "program", 1),
        (KeyError("loss"), "program", 1),
        (SystemExit(17), "program", 1),
        (RuntimeError("CUDA out of memory"), "program", 1),
        (
            RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"),
            "communication",
            1,
        ),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited"), "communication", 1),
        (ConnectionResetError(104, "Connection reset by peer"), "communication", 1),
        (type("DistBackendError", (RuntimeError,), {})("timed out"), "communication", 1),
        # Its text alone makes no error one of communication.
        (ValueError("Connection reset by peer"), "program", 1),
    ],
)
def test_causes(error: BaseException, cause: str, status: int, tmp_path: Path) -> None:
    end = record.failure(raised(error), tmp_path)
    assert (end.outcome, end.cause, end.exit_status) == ("failed", cause, status)
    assert end.exception is not None
    assert end.exception["type"] == type(error).__name__


@pytest.mark.parametrize(("outcome", "status"), [("finished", 0), ("stopped", 0)])
def test_an_end_in_order_has_status_0(outcome: RankOutcome, status: int) -> None:
    assert record.End(outcome).exit_status == status


def test_the_place_is_the_innermost_line_of_the_users_own_files(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe" / "mine.py"
    recipe.parent.mkdir()
    source = "import json\n\ndef configure():\n    return json.loads('{')\n"
    recipe.write_text(source)
    space: dict[str, object] = {}
    exec(compile(source, str(recipe), "exec"), space)  # noqa: S102 a recipe of the user
    try:
        space["configure"]()  # type: ignore[operator]
    except ValueError as error:
        end = record.failure(error, tmp_path)
    assert end.exception is not None
    assert end.exception["where"] == "recipe/mine.py:4 in configure"
    assert "Traceback" in end.exception["traceback"]


def test_elsewhere_the_place_is_the_innermost_line(tmp_path: Path) -> None:
    end = record.failure(raised(ValueError("x")), tmp_path)
    assert end.exception is not None
    where = str(end.exception["where"])
    assert where.startswith(f"{__file__}:")
    assert where.endswith(" in raised")


def test_a_user_errors_own_place_and_hint_are_kept(tmp_path: Path) -> None:
    end = record.failure(raised(UserError("wrong", where="argv.json: recipe", hint="do that")), tmp_path)
    assert end.exception is not None
    assert end.exception["where"] == "argv.json: recipe"
    assert end.exception["message"] == "wrong (do that)"


def test_the_commit_of_megatron_core_is_that_of_its_own_checkout(tmp_path: Path) -> None:
    """Not of a checkout around it: of the project whose environment it is in, or of Bridge around its submodule."""
    project, submodule = tmp_path / "project", tmp_path / "project/3rdparty/Megatron-LM"
    installed = project / ".venv/lib/python3.12/site-packages/megatron/core"
    for directory in (installed, submodule / "megatron/core", project / ".git/refs/heads", project / ".git/modules/lm"):
        directory.mkdir(parents=True)
    (project / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (project / ".git/refs/heads/main").write_text("1" * 40 + "\n")
    (project / ".git/modules/lm/HEAD").write_text("2" * 40 + "\n")
    (submodule / ".git").write_text("gitdir: ../../.git/modules/lm\n")
    assert record.commit_of(installed) is None
    assert record.commit_of(submodule / "megatron/core") == "2" * 40
    assert record.commit_of(project / "megatron/core") == "1" * 40
