"""The rank environment: each mistake has its own sentence, and is found before torch is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.job.errors import UserError
from launcher.job.rank import read_rank
from tests.job.ranks import ROOT, make_run, rank_environment

WRONG = [
    ({"RANK": None}, "the rank environment lacks RANK"),
    ({"RANK": None, "MASTER_ADDR": ""}, "the rank environment lacks RANK, MASTER_ADDR"),
    ({"RANK": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
    ({"LOCAL_RANK": "2"}, "LOCAL_RANK=2 is not below LOCAL_WORLD_SIZE=2"),
    ({"RANK": "one"}, "RANK='one' is not a decimal number"),
    ({"RANK": "-1"}, "RANK='-1' is not a decimal number"),
    ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE='2.0' is not a decimal number"),
    ({"WORLD_SIZE": "1_0"}, "WORLD_SIZE='1_0' is not a decimal number"),
    ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is not a port"),
    ({"MASTER_PORT": "0"}, "MASTER_PORT=0 is not a port"),
    ({"LAUNCHER_ATTEMPT": "../000"}, "LAUNCHER_ATTEMPT='../000' is not the name of an attempt"),
    ({"LAUNCHER_RUN_DIR": "run"}, "LAUNCHER_RUN_DIR='run' is not the absolute path"),
    ({"LAUNCHER_RUN_DIR": "/nowhere/at/all"}, "LAUNCHER_RUN_DIR='/nowhere/at/all' is not the absolute path"),
]


def changed(environment: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    merged = {**environment, **changes}
    return {name: value for name, value in merged.items() if value is not None}


def test_a_complete_environment_is_read(tmp_path: Path) -> None:
    rank = read_rank(rank_environment(tmp_path, 1, 4, "012", "1234"))
    assert (rank.rank, rank.local_rank, rank.world_size, rank.node_rank) == (1, 1, 4, 0)
    assert rank.master == "127.0.0.1:1234"
    assert rank.paths.path == tmp_path / "attempts" / "012"


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
def test_each_mistake_has_its_own_sentence(tmp_path: Path, changes: dict[str, str | None], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        read_rank(changed(rank_environment(tmp_path, 0, 2), changes))
    assert caught.value.message.startswith(sentence)


@pytest.mark.parametrize(("changes", "sentence"), [WRONG[0], WRONG[2], WRONG[4]])
def test_the_entrypoint_says_it_before_torch_is_imported(
    tmp_path: Path, changes: dict[str, str | None], sentence: str
) -> None:
    run = make_run(tmp_path / "run")
    # A torch that cannot be imported, first on the path: if anything asked for it, that would be the error.
    decoy = tmp_path / "decoy"
    decoy.mkdir()
    (decoy / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    environment = {**changed(rank_environment(run.path, 0, 2), changes), "PYTHONPATH": str(decoy)}
    command = [sys.executable, str(run.path / "code" / "entrypoint.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {sentence}")
    assert "torch" not in done.stderr
    assert list(run.path.glob("attempts/*/ranks/*")) == []


def test_the_decoy_of_the_test_above_would_be_found(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    environment = {**rank_environment(run.path, 0, 1), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(run.path / "code" / "entrypoint.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "torch was imported" in done.stderr


def test_the_modules_before_torch_need_the_standard_library_alone() -> None:
    # -S leaves out site-packages.
    modules = """rank, record, environment, train, backend, config.paths, model.architectures,
        watch.events, watch.metrics"""
    imports = "; ".join(f"import launcher.job.{module.strip()}" for module in modules.split(","))
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {imports}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_the_entrypoint_takes_no_other_arguments(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    command = [sys.executable, str(run.path / "code" / "entrypoint.py"), "train.train_iters=3"]
    environment = rank_environment(run.path, 0, 1)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "takes no arguments" in done.stderr
