"""git_repos: cloned once, verified, shared; what lies there already is used. Mode by the pinned release."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from launcher._util.errors import ConfigError, OutsideError
from launcher._util.shell import LocalShell, Result
from launcher.cloudai import sources
from launcher.cloudai.models import GitRepo
from launcher.cloudai.sources import install, look, mode_of, release_of, uninstall


def git(directory: Path, *arguments: str) -> str:
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_COUNT": "1"}
    environ |= {"GIT_CONFIG_KEY_0": "protocol.file.allow", "GIT_CONFIG_VALUE_0": "always"}
    for role in ("AUTHOR", "COMMITTER"):
        environ |= {f"GIT_{role}_NAME": "a", f"GIT_{role}_EMAIL": "a@example.com"}
    done = subprocess.run(["git", "-C", str(directory), *arguments], env=environ, check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    """A repository with two commits, a tag, a branch and a submodule."""
    for name in ("inner", "Megatron-Bridge"):
        made = tmp_path / "remote" / name
        made.mkdir(parents=True)
        git(made, "init", "-q", "-b", "main")
        (made / "a.txt").write_text(name)
        git(made, "add", ".")
        git(made, "commit", "-q", "-m", "one")
    git(made, "tag", "v0.3.0")
    git(made, "submodule", "add", "-q", str(tmp_path / "remote/inner"), "3rdparty/inner")
    git(made, "commit", "-q", "-m", "two")
    git(made, "branch", "r0.4.0")
    return made


@pytest.fixture(autouse=True)
def _submodules_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.file.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")


def repo(remote: Path, commit: str, **more: object) -> GitRepo:
    return GitRepo.model_validate({"url": str(remote), "commit": commit, **more})


@pytest.mark.parametrize("name", ["v0.3.0", "r0.4.0", "main", "commit"])
def test_a_tag_a_branch_and_a_commit_are_cloned_and_recorded(name: str, remote: Path, tmp_path: Path) -> None:
    wanted = git(remote, "rev-parse", "HEAD" if name == "commit" else name)
    found = install(repo(remote, wanted[:12] if name == "commit" else name), tmp_path / "install")
    assert found.commit == wanted
    assert found.path.name.startswith("Megatron-Bridge__")
    assert (found.path / "a.txt").read_text() == "Megatron-Bridge"
    # The second time nothing is cloned: the remote is gone.
    remote.rename(tmp_path / "gone")
    assert install(found.repo, tmp_path / "install").commit == wanted
    assert look(found.repo, tmp_path / "install").commit == wanted


def test_submodules_are_there_where_they_are_asked_for(remote: Path, tmp_path: Path) -> None:
    plain = install(repo(remote, "main"), tmp_path / "a")
    assert not list((plain.path / "3rdparty/inner").iterdir())
    whole = install(repo(remote, "main", init_submodules=True), tmp_path / "b")
    assert (whole.path / "3rdparty/inner/a.txt").read_text() == "inner"
    assert whole.notes == ()
    # A clone that lacks them is used, and said to.
    notes = look(repo(remote, "main", init_submodules=True, installed_path=plain.path), tmp_path).notes
    assert "lacks submodules that init_submodules asks for: 3rdparty/inner" in notes[0]


def test_eight_launchers_clone_once(remote: Path, tmp_path: Path) -> None:
    class Counting(LocalShell):
        def run(self, argv, **more):  # type: ignore[no-untyped-def]
            if "clone" in argv:
                clones.append(argv)
            return super().run(argv, **more)

    clones: list[object] = []
    found: list[str | None] = []

    def work() -> None:
        found.append(install(repo(remote, "main"), tmp_path / "install", Counting()).commit)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(clones) == 1
    assert found == [git(remote, "rev-parse", "main")] * 8
    assert sorted(path.name for path in (tmp_path / "install").iterdir() if path.is_dir()) == ["Megatron-Bridge__main"]


def test_a_clone_that_fails_leaves_nothing_under_its_name(remote: Path, tmp_path: Path) -> None:
    class Killed(LocalShell):
        def run(self, argv, **more):  # type: ignore[no-untyped-def]
            if "checkout" in argv:
                return Result(tuple(argv), 1, "", "fatal: the disk is full")
            return super().run(argv, **more)

    with pytest.raises(OutsideError, match="the disk is full") as raised:
        install(repo(remote, "main"), tmp_path / "install", Killed())
    assert "Without a network, put the repository at Megatron-Bridge__main" in str(raised.value.hint)
    assert not [path for path in (tmp_path / "install").iterdir() if path.is_dir()]
    with pytest.raises(ConfigError, match="has no commit, tag or branch 'v9'"):
        install(repo(remote, "v9"), tmp_path / "install")
    with pytest.raises(OutsideError):
        install(repo(tmp_path / "nowhere", "main"), tmp_path / "install")


def test_a_clone_of_another_commit_is_refused(remote: Path, tmp_path: Path) -> None:
    made = install(repo(remote, "v0.3.0"), tmp_path / "install")
    git(made.path, "checkout", "-q", "origin/main")
    with pytest.raises(ConfigError, match=r"is at commit \w+, and git_repos asks for v0.3.0"):
        look(made.repo, tmp_path / "install")


def test_a_directory_without_git_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "install/Megatron-Bridge__v0.6.0").mkdir(parents=True)
    found = install(repo(Path("https://example.com/Megatron-Bridge.git"), "v0.6.0"), tmp_path / "install")
    assert found.commit is None
    assert "is not a clone of git" in found.notes[0]
    with pytest.raises(ConfigError, match="was not cloned by this launcher"):
        uninstall(found.repo, tmp_path / "install")


def test_only_its_own_clones_are_removed(remote: Path, tmp_path: Path) -> None:
    made = install(repo(remote, "main"), tmp_path / "install")
    assert uninstall(made.repo, tmp_path / "install")
    assert not made.path.exists()
    assert not uninstall(made.repo, tmp_path / "install")
    git(tmp_path, "clone", "-q", str(remote), str(made.path))
    with pytest.raises(ConfigError, match="was not cloned by this launcher"):
        uninstall(made.repo, tmp_path / "install")


@pytest.mark.parametrize("work", ["changed", "new", "committed", "stashed"])
def test_a_clone_with_work_of_the_users_is_kept(work: str, remote: Path, tmp_path: Path) -> None:
    made = install(repo(remote, "main"), tmp_path / "install")
    file = next(path for path in made.path.iterdir() if path.is_file())
    (made.path / "mine" if work == "new" else file).write_text("mine")
    own = ("-c", "user.name=a", "-c", "user.email=a@b")
    if work == "committed":
        git(made.path, *own, "commit", "-qam", "mine")
    elif work == "stashed":
        git(made.path, *own, "stash", "-q")
    words = {"committed": "commits of its own", "stashed": "stashed changes"}.get(work, "changed or new files")
    with pytest.raises(ConfigError, match=f"has {words}.* is not removed"):
        uninstall(made.repo, tmp_path / "install")
    assert made.path.is_dir()


@pytest.mark.parametrize(
    ("commit", "release"),
    [
        ("v0.3.0", (0, 3)),
        ("r0.3.0", (0, 3)),
        ("v0.6.0rc1", (0, 6)),
        ("core_r0.5.0", (0, 5)),
        ("main", None),
        ("8a34622655951e44e1847796d9b2a0ce647999ee", None),
    ],
)
def test_the_release_of_a_commits_name(commit: str, release: tuple[int, int] | None) -> None:
    assert release_of(repo(Path("x/Megatron-Bridge"), commit), None) == release


def test_the_release_of_a_clone_is_in_its_files(tmp_path: Path) -> None:
    file = tmp_path / "install/Megatron-Bridge__main/src/megatron/bridge/package_info.py"
    file.parent.mkdir(parents=True)
    file.write_text("MAJOR = 0\nMINOR = 4\nPATCH = 1\n")
    one = repo(Path("x/Megatron-Bridge"), "main")
    source = look(one, tmp_path / "install")
    assert release_of(one, source) == (0, 4)
    assert mode_of(one, source, None) == ("exec", None)


@pytest.mark.parametrize(
    ("commit", "asked", "mode", "warned"),
    [
        ("v0.3.0", None, "exec", False),
        ("v0.5.1", None, "exec", False),
        ("v0.6.0", None, "native", False),
        ("v0.10.0", None, "native", False),
        ("main", None, "native", True),
        ("v0.3.0", "native", "native", True),
        ("v0.6.0", "exec", "exec", True),
        ("v0.6.0", "native", "native", False),
    ],
)
def test_the_mode_follows_from_the_release(commit: str, asked: sources.Mode | None, mode: str, warned: bool) -> None:
    found, warning = mode_of(repo(Path("x/Megatron-Bridge"), commit), None, asked)
    assert found == mode
    assert (warning is not None) == warned
    assert warning is None or commit in warning
