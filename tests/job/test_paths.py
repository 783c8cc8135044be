"""Where files go and which checkpoint is loaded, on plain objects and files."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.contract import checkpoints
from launcher.contract.overrides import keys_of
from launcher.contract.values import parse
from launcher.job.config import paths
from launcher.job.errors import UserError
from launcher.job.rank import Rank, read_rank
from tests.job.checkpoint_files import write_checkpoint
from tests.job.ranks import rank_environment


@pytest.fixture
def rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rank:
    monkeypatch.chdir(tmp_path)
    return read_rank(rank_environment(tmp_path, 0, 2))


@pytest.fixture
def save() -> Any:
    return write_checkpoint


def config(rank: Rank, **checkpoint: Any) -> Any:
    default = str(Path.cwd() / "nemo_experiments" / "default")
    section = {"save": f"{default}/checkpoints", "load": f"{default}/checkpoints", "ckpt_step": None, "finetune": True}
    section["ckpt_format"] = "torch_dist"
    return SimpleNamespace(
        checkpoint=SimpleNamespace(**{**section, **checkpoint}),
        logger=SimpleNamespace(tensorboard_dir=f"{default}/tb_logs", save_config_filepath=None),
        profiling=SimpleNamespace(memory_snapshot_path=paths.BRIDGE_SNAPSHOT),
        train=SimpleNamespace(exit_signal_handler=False, exit_signal_handler_for_dataloader=False),
    )


def forget_trackers(directory: Path) -> None:
    for name in checkpoints.TRACKERS:
        (directory / name).unlink()


def later(rank: Rank) -> Rank:
    return read_rank(rank_environment(rank.run_dir, 0, 2, "001"))


def test_outputs_go_into_the_run_directory(rank: Rank) -> None:
    made = config(rank)
    paths.place_files(made, rank, frozenset())
    assert made.checkpoint.save == str(rank.run_dir / "checkpoints")
    assert made.logger.tensorboard_dir == str(rank.run_dir / "tensorboard")
    assert made.logger.save_config_filepath == str(rank.paths.path / "config.yaml")
    assert made.profiling.memory_snapshot_path == str(rank.paths.path / "profiles" / "memory.pickle")


def test_a_place_that_the_user_chose_is_kept(rank: Rank) -> None:
    made = config(rank, save="/data/of/the/recipe")
    made.logger.tensorboard_dir = None
    paths.place_files(made, rank, frozenset({"logger.tensorboard_dir"}))
    assert made.checkpoint.save == "/data/of/the/recipe"
    assert made.logger.tensorboard_dir is None


@pytest.mark.parametrize(
    ("overrides", "key", "expected"),
    [
        (["checkpoint.save='/a=b'"], "checkpoint.save", True),
        (["+checkpoint.save=/a"], "checkpoint.save", True),
        (["++checkpoint={save:/a}"], "checkpoint.save", True),
        (["checkpoint.save_interval=3"], "checkpoint.save", False),
        ([], "checkpoint.save", False),
    ],
)
def test_overridden_keys(overrides: list[str], key: str, expected: bool) -> None:
    assert paths.is_overridden(key, keys_of(map(parse, overrides))) is expected


def test_signals_stop_a_run_unless_the_user_says_otherwise(rank: Rank) -> None:
    made = config(rank)
    paths.stop_on_signal(made, frozenset({"train.exit_signal_handler_for_dataloader"}))
    assert made.train.exit_signal_handler is True
    assert made.train.exit_signal_handler_for_dataloader is False


def test_a_new_run_loads_nothing_from_bridges_default_directory(rank: Rank, save: Any) -> None:
    made = config(rank)
    save(Path(made.checkpoint.load), 10)
    paths.choose_checkpoint(made, rank, frozenset(), load=False)
    assert made.checkpoint.load is None


def test_a_new_run_refuses_a_checkpoint_that_was_not_allowed(rank: Rank, save: Any, tmp_path: Path) -> None:
    save(tmp_path / "old", 10)
    made = config(rank, load=str(tmp_path / "old"))
    with pytest.raises(UserError, match="holds a checkpoint; a new run loads a checkpoint only when you allow it"):
        paths.choose_checkpoint(made, rank, frozenset({"checkpoint.load"}), load=False)


def test_an_allowed_checkpoint_is_loaded_and_must_be_there(rank: Rank, save: Any, tmp_path: Path) -> None:
    made = config(rank, load=str(tmp_path / "old"))
    with pytest.raises(UserError, match="holds no checkpoint"):
        paths.choose_checkpoint(made, rank, frozenset(), load=True)
    save(tmp_path / "old", 10)
    paths.choose_checkpoint(made, rank, frozenset(), load=True)
    assert made.checkpoint.load == str(tmp_path / "old")


def test_a_new_run_does_not_load_from_a_directory_that_fills_up_later(rank: Rank, tmp_path: Path) -> None:
    made = config(rank, save=str(tmp_path / "mine"), load=str(tmp_path / "mine"))
    paths.choose_checkpoint(made, rank, frozenset(), load=False)
    assert made.checkpoint.load is None


def test_a_later_attempt_takes_the_newest_complete_iteration(rank: Rank, save: Any) -> None:
    made = config(rank, save=str(rank.run_dir / "checkpoints"))
    for step in (10, 20, 30):
        newest = save(rank.run_dir / "checkpoints", step)
    (newest / "__0_0.distcp").unlink()
    paths.choose_checkpoint(made, later(rank), frozenset(), load=False)
    assert (made.checkpoint.load, made.checkpoint.ckpt_step) == (str(rank.run_dir / "checkpoints"), 20)
    assert made.checkpoint.finetune is False


def test_without_a_tracker_the_iterations_own_directory_is_loaded(rank: Rank, save: Any) -> None:
    made = config(rank, save=str(rank.run_dir / "checkpoints"))
    path = save(rank.run_dir / "checkpoints", 10)
    forget_trackers(path.parent)
    paths.choose_checkpoint(made, later(rank), frozenset(), load=False)
    assert (made.checkpoint.load, made.checkpoint.ckpt_step) == (str(path), None)


def test_a_later_attempt_without_any_checkpoint_starts_as_the_first_did(rank: Rank) -> None:
    made = config(rank, save=str(rank.run_dir / "checkpoints"))
    paths.choose_checkpoint(made, later(rank), frozenset(), load=False)
    assert made.checkpoint.load is None


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_from_nothing(rank: Rank, save: Any) -> None:
    made = config(rank, save=str(rank.run_dir / "checkpoints"))
    for step in (10, 20):
        (save(rank.run_dir / "checkpoints", step) / "train_state.pt").unlink()
    with pytest.raises(UserError, match=r"none of the checkpoints .* is complete \(iterations: 10, 20\)"):
        paths.choose_checkpoint(made, later(rank), frozenset(), load=False)


def test_a_first_save_that_was_cut_short_is_not_a_checkpoint(rank: Rank, save: Any) -> None:
    made = config(rank, save=str(rank.run_dir / "checkpoints"))
    path = save(rank.run_dir / "checkpoints", 10)
    (path / ".metadata").unlink()
    forget_trackers(path.parent)
    paths.choose_checkpoint(made, later(rank), frozenset(), load=False)
    assert made.checkpoint.load is None
    assert made.checkpoint.finetune is True


def test_what_is_not_on_a_file_system_is_left_to_bridge_but_not_to_chance(rank: Rank) -> None:
    made = config(rank, save="msc://store/run", load="msc://store/run")
    with pytest.raises(UserError, match="may hold a checkpoint"):
        paths.choose_checkpoint(made, rank, frozenset(), load=False)
    paths.choose_checkpoint(made, later(rank), frozenset(), load=False)
    assert (made.checkpoint.load, made.checkpoint.ckpt_step) == ("msc://store/run", None)


def test_an_iteration_that_the_user_named_is_taken(rank: Rank, save: Any) -> None:
    made = config(rank, save=str(rank.run_dir / "checkpoints"), ckpt_step=10)
    for step in (10, 20):
        save(rank.run_dir / "checkpoints", step)
    paths.choose_checkpoint(made, later(rank), frozenset({"checkpoint.ckpt_step"}), load=False)
    assert (made.checkpoint.load, made.checkpoint.ckpt_step) == (str(rank.run_dir / "checkpoints"), 10)


def test_an_iteration_is_named_for_one_attempt_and_newer_ones_stay_behind(rank: Rank, save: Any) -> None:
    """A requeued attempt of the same submission continues from what was saved since then, not from there again."""
    directory = rank.run_dir / "checkpoints"
    for step in (10, 20, 30):
        save(directory, step)
    named = frozenset({"checkpoint.ckpt_step"})

    def chosen(attempt: str, nonce: str) -> int | None:
        at = read_rank(rank_environment(rank.run_dir, 0, 2, attempt))
        at.paths.path.mkdir(parents=True, exist_ok=True)
        at.paths.start.write_text(f"{nonce} 12 -\n")
        made = config(rank, save=str(directory), ckpt_step=20)
        choice = paths.choose_checkpoint(made, at, named, load=False)
        return choice["iteration"] if choice else None

    rank.paths.path.mkdir(parents=True, exist_ok=True)
    rank.paths.start.write_text("first 11 -\n")
    assert chosen("001", "second") == 20
    assert rank.run_paths.set_aside(30).exists()
    assert chosen("002", "second") == 20, "30 was left"
    save(directory, 25)
    assert chosen("003", "second") == 25
    assert chosen("004", "third") == 20, "named again"


@pytest.mark.parametrize("damage", ["train_state.pt", "metadata.json", ".metadata", "__1_0.distcp"])
@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_checkpoint_that_lacks_a_file_is_not_complete(tmp_path: Path, save: Any, damage: str, kind: str) -> None:
    path = save(tmp_path, 10)
    assert checkpoints.is_complete(path)
    (path / damage).unlink() if kind == "missing" else (path / damage).write_bytes(b"")
    assert not checkpoints.is_complete(path)


def test_a_truncated_shard_or_metadata_is_not_complete(tmp_path: Path, save: Any) -> None:
    path = save(tmp_path, 10)
    shard = path / "__0_0.distcp"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert not checkpoints.is_complete(path)
    path = save(tmp_path, 20)
    metadata = path / ".metadata"
    metadata.write_bytes(metadata.read_bytes()[:-40])
    assert not checkpoints.is_complete(path)


def test_reading_metadata_runs_nothing_from_it(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "attacked",))

    with pytest.raises((TypeError, KeyError)):
        checkpoints.read_metadata(pickle.dumps(Attack()))
    assert not (tmp_path / "attacked").exists()
