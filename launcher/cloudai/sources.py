"""git_repos: cloned once for each commit below the system's install path, verified, and shared by all runs."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher._util.errors import ConfigError, OutsideError
from launcher._util.shell import LocalShell, Result, Shell
from launcher.cloudai.models import GitRepo
from launcher.rundir.locks import locked

Mode = Literal["native", "exec"]

_CLONE_S = 1800.0
_ASK_S = 60.0
NATIVE_SINCE = (0, 6)
"""The first release of Bridge whose recipes carry all that its scripts used to add."""


@dataclass(frozen=True)
class Checkout:
    """A repository on this machine, or the place where it will be."""

    repo: GitRepo
    path: Path
    commit: str | None
    """The full commit; None for a directory that is not a clone, and for one that is not there yet."""
    notes: tuple[str, ...] = ()

    @property
    def mount(self) -> str | None:
        """Return its mount; None where the file asks for none."""
        return f"{self.path}:{self.repo.mount_as}" if self.repo.mount_as else None


def directory_of(repo: GitRepo, install_path: Path) -> Path:
    """Return where a repository is, or will be."""
    return (repo.installed_path or install_path / repo.directory_name).absolute()


def look(repo: GitRepo, install_path: Path, shell: Shell | None = None) -> Checkout:
    """Return a repository as it is, and make nothing. Raises ConfigError for a clone of another commit."""
    path = directory_of(repo, install_path)
    if not path.is_dir():
        return Checkout(repo, path, None, (f"{path} is not there yet, and will be cloned",))
    return _verified(repo, path, shell or LocalShell())


def install(repo: GitRepo, install_path: Path, shell: Shell | None = None) -> Checkout:
    """Return a repository, cloned where it is not there. Raises ConfigError, OutsideError where it cannot be cloned."""
    shell = shell or LocalShell()
    path = directory_of(repo, install_path)
    if path.is_dir():
        return _verified(repo, path, shell)
    path.parent.mkdir(parents=True, exist_ok=True)
    busy = OutsideError("another launcher clones it for longer than 30 minutes", where=str(path))
    with locked(path.parent / f".{path.name}.lock", wait_s=_CLONE_S, busy=busy):
        if not path.is_dir():
            _clone(repo, path, shell)
    return _verified(repo, path, shell)


def uninstall(repo: GitRepo, install_path: Path, shell: Shell | None = None) -> bool:
    """Remove a clone of `install`, and return whether there was one.

    Raises ConfigError for another directory, and for a clone with anything that its remote does not have.
    """
    path = directory_of(repo, install_path)
    if not path.is_dir():
        return False
    if not (path / _MARK).is_file():
        raise ConfigError(
            "was not cloned by this launcher, and is not removed", where=str(path), hint="Remove it yourself."
        )
    if (changed := _own_work(path, shell or LocalShell())) is not None:
        raise ConfigError(
            f"has {changed}, and is not removed", where=str(path), hint="Save what you need, and remove it yourself."
        )
    shutil.rmtree(path)
    return True


def _own_work(path: Path, shell: Shell) -> str | None:
    """Return what a clone has that its remote does not; None for nothing."""
    looks = (
        ("changed or new files", ["status", "--porcelain", "--untracked-files=all"]),
        ("commits of its own", ["rev-list", "--max-count=4", "HEAD", "--branches", "--not", "--remotes", "--tags"]),
        ("stashed changes", ["stash", "list"]),
    )
    for what, arguments in looks:
        found = _ask(path, shell, *arguments)
        if found is None:
            return "a state that git does not show"
        if found:
            first = "" if what.startswith("commits") else f" ({found.splitlines()[0].strip()})"
            return f"{what}{first}"
    return None


_MARK = ".git/launcher-clone"


def _clone(repo: GitRepo, path: Path, shell: Shell) -> None:
    """Clone into a directory beside, and name it once it is whole: a killed clone leaves nothing under the name."""
    if repo.url.startswith("-") or repo.commit.startswith("-"):
        raise ConfigError("begins with a dash", where=f"git_repos: {repo.url} {repo.commit}")
    part = path.parent / f".{path.name}.part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        _git(["clone", "--quiet", "--", repo.url, str(part)], shell, None, repo)
        _git(["checkout", "--quiet", "--detach", _commitish(repo, part, shell)], shell, part, repo)
        if repo.init_submodules:
            _git(["submodule", "update", "--quiet", "--init", "--recursive"], shell, part, repo)
        (part / _MARK).write_text(f"{repo.url}\n{repo.commit}\n")
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _commitish(repo: GitRepo, path: Path, shell: Shell) -> str:
    """Return what git calls a commit, a tag, or a branch of the remote."""
    for name in (f"refs/tags/{repo.commit}", f"refs/remotes/origin/{repo.commit}", repo.commit):
        argv = ["git", "-C", str(path), "rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}"]
        if shell.run(argv, check=False, timeout_s=_ASK_S).status == 0:
            return name
    raise ConfigError(f"has no commit, tag or branch {repo.commit!r}", where=repo.url)


def _git(arguments: list[str], shell: Shell, directory: Path | None, repo: GitRepo) -> Result:
    argv = ["git", *(["-C", str(directory)] if directory else []), *arguments]
    result = shell.run(argv, check=False, timeout_s=_CLONE_S, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
    if result.status:
        words = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()[-1]
        raise OutsideError(
            f"git {arguments[0]} failed: {words}",
            where=f"{repo.url} at {repo.commit}",
            hint=f"Without a network, put the repository at {repo.directory_name} below install_path, or state "
            "installed_path.",
        )
    return result


def _verified(repo: GitRepo, path: Path, shell: Shell) -> Checkout:
    """Return what is at `path`. Raises ConfigError for a clone of another commit."""
    if not (path / ".git").exists():
        return Checkout(repo, path, None, (f"{path} is not a clone of git, so its commit is not known",))
    head = _ask(path, shell, "rev-parse", "HEAD")
    if head is None:
        return Checkout(repo, path, None, (f"git says no commit of {path}",))
    # A branch may have moved on since it was cloned, and a clone without its remote's refs knows no branch.
    wanted = {
        found
        for name in (repo.commit, f"refs/tags/{repo.commit}", f"refs/remotes/origin/{repo.commit}")
        if (found := _ask(path, shell, "rev-parse", "--quiet", "--verify", "--end-of-options", f"{name}^{{commit}}"))
    }
    notes = list[str]()
    if wanted and head not in wanted and not head.startswith(repo.commit.lower()):
        raise ConfigError(
            f"is at commit {head[:12]}, and git_repos asks for {repo.commit} ({min(wanted)[:12]})",
            where=str(path),
            hint="Check out that commit there, or name another directory as installed_path.",
        )
    if not wanted:
        notes.append(f"{path} is at {head[:12]}; whether that is {repo.commit} is not known there")
    notes += _submodules(repo, path, shell)
    return Checkout(repo, path, head, tuple(notes))


def _submodules(repo: GitRepo, path: Path, shell: Shell) -> list[str]:
    if not (path / ".gitmodules").is_file():
        return []
    status = _ask(path, shell, "submodule", "status", "--recursive") or ""
    missing = [line.split()[1] for line in status.splitlines() if line.startswith("-") and len(line.split()) > 1]
    if repo.init_submodules and missing:
        return [f"{path} lacks submodules that init_submodules asks for: {', '.join(missing[:4])}"]
    return []


def _ask(path: Path, shell: Shell, *arguments: str) -> str | None:
    result = shell.run(["git", "-C", str(path), *arguments], check=False, timeout_s=_ASK_S)
    return result.stdout.rstrip("\n") if result.status == 0 else None


def release_of(repo: GitRepo, source: Checkout | None) -> tuple[int, int] | None:
    """Return the release of Bridge that is pinned: by a name such as v0.3.0 or r0.3.0, else by what was cloned.

    None where neither says.
    """
    if named := re.fullmatch(r"(?:core_)?[vr]?(\d+)\.(\d+)(?:\.\d+)?(?:[-_.]?(?:rc|a|b|post|dev)\d*)?", repo.commit):
        return int(named[1]), int(named[2])
    if source is not None:
        file = source.path / "src/megatron/bridge/package_info.py"
        if file.is_file():
            found = {
                name: int(value)
                for name, value in re.findall(
                    r"^(MAJOR|MINOR)\s*=\s*(\d+)", file.read_text(errors="replace"), re.MULTILINE
                )
            }
            if {"MAJOR", "MINOR"} <= found.keys():
                return found["MAJOR"], found["MINOR"]
    return None


def mode_of(repo: GitRepo, source: Checkout | None, asked: Mode | None) -> tuple[Mode, str | None]:
    """Return how a test runs, and a warning where that is not what its commit says.

    Releases before 0.6 are run by their own setup_experiment.py, later ones by the launcher's own step.
    """
    release = release_of(repo, source)
    shown = "of an unknown release" if release is None else f"of release {release[0]}.{release[1]}"
    wanted: Mode = "exec" if release is not None and release < NATIVE_SINCE else "native"
    if asked is None and release is None:
        return "native", f"git_repos pins {repo.commit}, whose release is not known: it runs natively"
    if asked is None or asked == wanted:
        return asked or wanted, None
    return asked, f"git_repos pins {repo.commit} ({shown}), and --mode {asked} was asked for"
