"""Megatron-LM's scripts: the checkout that has them, and its commit."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher._util.errors import CommandError, RecipeError
from launcher._util.shell import LocalShell
from launcher._util.user_paths import cache_directory, user_path
from launcher.discovery.recipe import MLM, MegatronScript

OWN = "gpt"
"""The launcher's own script, which needs no checkout: launcher/job/mlm/gpt.py."""
REPOSITORY = "https://github.com/NVIDIA/Megatron-LM.git"
"""Where a commit comes from that no directory has; LAUNCHER_MLM_REPOSITORY names another one."""
_TIMEOUT_S = 600


def read_megatron_script(
    text: str, source: str | None, words: Sequence[str], directory: Path, environ: Mapping[str, str]
) -> MegatronScript:
    """Return the script `mlm:gpt` or `mlm:SCRIPT.py` of a checkout. Raises RecipeError, CommandError of git."""
    name = text.removeprefix(MLM)
    if not words:
        raise RecipeError(
            "Megatron-LM gets no arguments", where=text, hint=f"Write them behind --: {text} -- --num-layers 2 ..."
        )
    if source is None:
        if name != OWN:
            raise RecipeError(
                f"{name} is in a checkout of Megatron-LM, and none is named",
                where=text,
                hint=f"Add --mlm-source DIR or COMMIT, or use {MLM}{OWN}, which needs the installed packages alone.",
            )
        return MegatronScript(OWN, tuple(words))
    checkout, commit = find_source(source, directory, environ)
    if not (checkout / "megatron" / "training").is_dir():
        raise RecipeError("is not a checkout of Megatron-LM: it has no megatron/training", where=str(checkout))
    if name != OWN and not (checkout / name).is_file():
        scripts = ", ".join(sorted(path.name for path in checkout.glob("pretrain_*.py"))) or "none"
        raise RecipeError(f"there is no script {name!r}; there are: {scripts}", where=str(checkout))
    return MegatronScript(name, tuple(words), checkout, commit)


def find_source(source: str, directory: Path, environ: Mapping[str, str]) -> tuple[Path, str | None]:
    """Return the directory of a checkout `DIR`, `DIR@COMMIT` or `COMMIT`, and its commit.

    A commit is exported once into the cache, which is shared by all runs. Raises RecipeError, CommandError.
    """
    head, at, commit = source.rpartition("@")
    if not at:
        if _is_commit(source):
            return _exported(environ.get("LAUNCHER_MLM_REPOSITORY", REPOSITORY), source, environ)
        path = user_path(source, directory, where="--mlm-source", error=RecipeError).resolve()
        if not path.is_dir():
            raise RecipeError(f"there is no directory {source!r}", where="--mlm-source")
        return path, git_commit(path)
    path = user_path(head, directory, where="--mlm-source", error=RecipeError).resolve()
    if not path.is_dir():
        raise RecipeError(f"there is no directory {head!r}", where="--mlm-source")
    return _exported(str(path), commit, environ)


def commits_between(first: str, last: str, directory: Path, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the sources of all commits from one to another, both included, oldest first.

    Both are `DIR@COMMIT` of one directory, or `COMMIT`; empty where they are something else. Raises RecipeError where
    both are one commit, or the first is not an ancestor of the last, CommandError.
    """
    heads = [source.rpartition("@")[0] for source in (first, last)]
    if heads[0] != heads[1] or not all(heads[0] or _is_commit(source) for source in (first, last)):
        return ()
    ends = [find_source(source, directory, environ)[1] for source in (first, last)]
    clone = _clone(environ) if not heads[0] else user_path(heads[0], directory, where="--mlm-source").resolve()
    if ends[0] == ends[1]:
        raise RecipeError(f"{first} and {last} are the same commit, {ends[0]}", where=str(clone))
    argv = ["git", "-C", str(clone), "rev-list", "--reverse", "--ancestry-path", f"{ends[0]}..{ends[1]}"]
    found = LocalShell().run(argv, timeout_s=60).stdout.split()
    if not found:
        raise RecipeError(
            f"the commit {first} is not an ancestor of {last}", where=str(clone), hint="Name the older one first."
        )
    return tuple(f"{heads[0]}@{commit}" if heads[0] else commit for commit in (str(ends[0]), *found))


def _is_commit(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9a-f]{7,40}|core_[rv][0-9.]+", text))


def _clone(environ: Mapping[str, str]) -> Path:
    """Return where the repository is that commits without a directory come from: itself, or its clone in the cache."""
    repository = environ.get("LAUNCHER_MLM_REPOSITORY", REPOSITORY)
    if Path(repository).is_dir():
        return Path(repository)
    return cache_directory(environ) / "megatron-lm" / re.sub(r"[^A-Za-z0-9.]+", "-", repository).strip("-")


def git_commit(path: Path) -> str | None:
    """Return the commit of a directory, with `+changes` where files differ from it; None outside a repository."""
    shell = LocalShell()
    try:
        found = shell.run(["git", "-C", str(path), "rev-parse", "HEAD"], check=False, timeout_s=60)
        if found.status:
            return None
        # Without its lock: the checkout is the user's, who may commit there at this moment.
        argv = ["git", "--no-optional-locks", "-C", str(path), "status", "--porcelain", "--untracked-files=no"]
        changed = shell.run(argv, check=False, timeout_s=60)
    except CommandError:
        return None
    return found.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def _exported(repository: str, commit: str, environ: Mapping[str, str]) -> tuple[Path, str]:
    """Return the files of a commit, in the cache, and its full name."""
    cache = cache_directory(environ) / "megatron-lm"
    cache.mkdir(parents=True, exist_ok=True)
    clone = Path(repository)
    if not clone.is_dir():
        clone = _clone(environ)
        _update(clone, repository, commit)
    full = _full_name(clone, commit)
    if full is None:
        raise RecipeError(f"{repository} has no commit {commit!r}", where="--mlm-source")
    target = cache / full
    if not target.exists():
        import tempfile

        with tempfile.TemporaryDirectory(prefix=f"{full}-", dir=cache) as made:
            archive, tree = Path(made) / "tree.tar", Path(made) / "tree"
            LocalShell().run(["git", "-C", str(clone), "archive", "--output", str(archive), full], timeout_s=_TIMEOUT_S)
            shutil.unpack_archive(str(archive), str(tree), "tar", filter="data")
            _move(tree, target)
    return target, full


def _update(clone: Path, repository: str, commit: str) -> None:
    """Make the cached clone of a repository; look for a commit that it lacks, and for where a branch is now."""
    shell = LocalShell()
    if not clone.exists():
        import tempfile

        with tempfile.TemporaryDirectory(prefix=f"{clone.name}-", dir=clone.parent) as made:
            new = Path(made) / "clone"
            shell.run(["git", "clone", "--bare", "--quiet", repository, str(new)], timeout_s=_TIMEOUT_S)
            _move(new, clone)
    elif not re.fullmatch(r"[0-9a-f]+", commit) or _full_name(clone, commit) is None:
        heads = "+refs/heads/*:refs/heads/*"
        shell.run(["git", "-C", str(clone), "fetch", "--quiet", "--tags", "origin", heads], timeout_s=_TIMEOUT_S)


def _full_name(clone: Path, commit: str) -> str | None:
    """Return the full name of a commit; None where the repository does not have it."""
    argv = ["git", "-C", str(clone), "rev-parse", "--verify", f"{commit}^{{commit}}"]
    named = LocalShell().run(argv, check=False, timeout_s=60)
    return None if named.status else named.stdout.strip()


def _move(made: Path, target: Path) -> None:
    """Give a whole directory its name, unless another launcher has just done so."""
    try:
        os.rename(made, target)  # noqa: PTH104 - fails where the target exists
    except OSError:
        if not target.exists():
            raise
