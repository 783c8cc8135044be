"""Checkouts of Megatron-LM and Megatron-Core: directories, commits, and those that a Bridge checkout pins."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launcher._util.errors import ConfigError, RecipeError
from launcher.api.prepare_plan import prepare_plan
from launcher.config.request import Request
from launcher.discovery.megatron_core import core_version, find_core, pair_warning, read_pinned, use_core
from launcher.discovery.megatron_lm import find_source, git_commit, read_megatron_script
from launcher.job.config import check
from tests.support.limits import seconds

VERSION = "MAJOR = 0\nMINOR = {minor}\nPATCH = 2\n"


def git(directory: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always")
    done = subprocess.run(["git", "-C", str(directory), *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository like Megatron-LM's with two commits, of 0.19 and of 0.20."""
    path = tmp_path / "mlm"
    for part in ("core", "training"):
        (path / "megatron" / part).mkdir(parents=True)
        (path / "megatron" / part / "__init__.py").touch()
    (path / "pretrain_gpt.py").write_text("print('here')\n")
    git(path.parent, "init", "-q", str(path))
    for minor in (19, 20):
        (path / "megatron" / "core" / "package_info.py").write_text(VERSION.format(minor=minor))
        git(path, "add", "-A")
        git(path, "commit", "-qm", f"0.{minor}")
    return path


def commits(repository: Path) -> list[str]:
    """Return the commits, oldest first."""
    return git(repository, "log", "--format=%H", "--reverse").split()


def environment(tmp_path: Path, repository: Path) -> dict[str, str]:
    return {"LAUNCHER_CACHE": str(tmp_path / "cache"), "LAUNCHER_MLM_REPOSITORY": str(repository)}


def test_a_directory_is_used_as_it_is_and_changes_are_said(repository: Path, tmp_path: Path) -> None:
    path, commit = find_source("mlm", tmp_path, {})
    assert (path, commit) == (repository, commits(repository)[1])
    (repository / "pretrain_gpt.py").write_text("print('changed')\n")
    assert str(git_commit(repository)).endswith("+changes")
    assert git_commit(tmp_path) is None


def test_a_look_at_a_checkout_writes_nothing_in_it(repository: Path) -> None:
    os.utime(repository / "pretrain_gpt.py", (1, 1))  # git would note that in its index
    before = (repository / ".git/index").read_bytes()
    assert git_commit(repository) == commits(repository)[1]
    assert (repository / ".git/index").read_bytes() == before


@pytest.mark.parametrize("form", ["directory", "commit"])
def test_a_commit_is_exported_once(form: str, repository: Path, tmp_path: Path) -> None:
    old = commits(repository)[0]
    env = environment(tmp_path, repository)
    source = f"mlm@{old[:12]}" if form == "directory" else old
    path, commit = find_source(source, tmp_path, env)
    assert (commit, core_version(path)) == (old, "0.19.2")
    assert core_version(repository) == "0.20.2"
    (path / "mark").touch()
    assert (find_source(source, tmp_path, env)[0] / "mark").exists()
    assert [one.name for one in path.parent.iterdir()] == [old], "nothing is left beside it"


def test_a_commit_that_is_newer_than_the_clone_is_fetched(repository: Path, tmp_path: Path) -> None:
    env = {**environment(tmp_path, repository), "LAUNCHER_MLM_REPOSITORY": f"file://{repository}"}
    assert find_source(commits(repository)[1], tmp_path, env)[1] == commits(repository)[1]
    git(repository, "branch", "core_r0.20")
    assert find_source("core_r0.20", tmp_path, env)[1] == commits(repository)[1]
    git(repository, "commit", "-q", "--allow-empty", "-m", "newer")
    newest = commits(repository)[-1]
    assert find_source(newest, tmp_path, env)[1] == newest
    git(repository, "branch", "-f", "core_r0.20")
    assert find_source("core_r0.20", tmp_path, env)[1] == newest, "a branch is where it is now"
    with pytest.raises(RecipeError, match="no commit"):
        find_source("abcdef0", tmp_path, env)


@pytest.mark.parametrize(("text", "source"), [("mlm:gpt", None), ("mlm:pretrain_gpt.py", "mlm")])
def test_a_script_is_found_with_its_arguments(text: str, source: str | None, repository: Path, tmp_path: Path) -> None:
    found = read_megatron_script(text, source, ["--num-layers", "2"], tmp_path, {})
    assert found.words == ("--num-layers", "2")
    assert found.source == (repository if source else None)


@pytest.mark.parametrize(
    ("text", "source", "words"),
    [
        ("mlm:gpt", None, []),
        ("mlm:pretrain_gpt.py", None, ["--bf16"]),
        ("mlm:pretrain_t5.py", "mlm", ["--bf16"]),
        ("mlm:pretrain_gpt.py", "nowhere", ["--bf16"]),
        ("mlm:pretrain_gpt.py", ".", ["--bf16"]),
        ("mlm:gpt", "mlm@abcdef0", ["--bf16"]),
    ],
)
def test_a_script_that_cannot_run_is_refused(
    text: str, source: str | None, words: list[str], repository: Path, tmp_path: Path
) -> None:
    assert repository.exists()
    with pytest.raises(RecipeError):
        read_megatron_script(text, source, words, tmp_path, environment(tmp_path, repository))


def test_the_check_of_a_configuration_uses_the_core_of_the_run(tmp_path: Path) -> None:
    options = {"device": "cpu", "mcore": str(tmp_path / "absent")}
    given = check.reply({"recipe": {"bridge": "x"}, "world_size": 1, "ranks_per_node": 1, "options": options})
    assert f"{tmp_path / 'absent'} has no directory megatron" in given["error"]


# ---- a checkout of Megatron Bridge


@pytest.fixture
def bridge(repository: Path, tmp_path: Path) -> Path:
    """A checkout of Bridge with the submodule at `main`, which is the newer commit."""
    path = tmp_path / "bridge"
    path.mkdir()
    old, new = commits(repository)
    git(path, "init", "-q")
    (path / ".main.commit").write_text(f"{new}\n")
    (path / ".dev.commit").write_text(f"{old}\n")
    git(path, "submodule", "--quiet", "add", str(repository), "3rdparty/Megatron-LM")
    git(path, "add", "-A")
    git(path, "commit", "-qm", "bridge")
    return path


def test_status_says_main_dev_or_custom(bridge: Path, repository: Path) -> None:
    old, new = commits(repository)
    found = read_pinned(bridge / "3rdparty")
    assert (found.name, found.commit, found.recorded) == ("main", new, new)
    assert (use_core("dev", bridge).name, read_pinned(bridge).recorded) == ("dev", new)
    assert read_pinned(bridge).commit == old
    submodule = bridge / "3rdparty" / "Megatron-LM"
    git(submodule, "commit", "-q", "--allow-empty", "-m", "own")
    assert read_pinned(bridge).name == "custom"


def test_a_switch_does_not_lose_changes(bridge: Path) -> None:
    (bridge / "3rdparty" / "Megatron-LM" / "pretrain_gpt.py").write_text("mine\n")
    with pytest.raises(ConfigError, match="not committed"):
        use_core("dev", bridge)


def test_mcore_takes_names_of_the_checkout(bridge: Path, repository: Path, tmp_path: Path) -> None:
    env = environment(tmp_path, repository)
    assert find_core("dev", bridge, env).version == "0.19.2"
    assert find_core("main", bridge, env).version == "0.20.2"
    assert find_core(str(repository), tmp_path, env).version == "0.20.2"
    with pytest.raises(ConfigError):
        find_core("main", tmp_path, env)
    with pytest.raises(ConfigError, match="megatron/core"):
        find_core(str(tmp_path), tmp_path, env)


def test_a_pair_that_was_not_seen_is_warned_of(repository: Path, tmp_path: Path) -> None:
    core = find_core(str(repository), tmp_path, {})
    assert "0.20.2" in str(pair_warning(core, "0.6.2"))
    assert pair_warning(core, None) is None


def test_the_command_shows_and_switches(bridge: Path, repository: Path) -> None:
    def mcore(*words: str) -> tuple[int, dict[str, object]]:
        done = subprocess.run(
            [sys.executable, "-m", "launcher", "mcore", *words, "--json", "--bridge", str(bridge)],
            capture_output=True,
            text=True,
            timeout=seconds(60),
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    status, found = mcore("status")
    assert (status, found["name"], found["as_recorded"]) == (0, "main", True)
    status, found = mcore("use", "dev")
    assert (status, found["name"], found["as_recorded"]) == (1, "dev", False)
    assert found["commit"] == commits(repository)[0]


def test_nsys_is_said_in_megatron_lms_words() -> None:
    """Its own loop starts and stops the capture, in the steps and on the ranks that the user names."""
    words = ("--num-layers", "2", "--train-iters", "20", "--no-gradient-accumulation-fusion")
    asked = {"recipe": "mlm:gpt", "cluster": "slurm", "nodes": 1, "gpus_per_node": 2, "mlm_arguments": words}
    options = {"nsys": True, "profile_steps": "10:15", "profile_ranks": "0,1"}
    plan = prepare_plan(Request.model_validate({**asked, **options}), "submit", check="never").to_dict()
    assert plan["argv"]["recipe"]["words"][len(words) :] == shlex.split(
        "--profile --profile-step-start 10 --profile-step-end 15 --profile-ranks 0 1"
    )
    profiler = plan["argv"]["options"]["profiler"]
    assert (profiler["name"], profiler["ranks"], profiler["start"], profiler["stop"]) == ("nsys", [0, 1], 10, 15)
