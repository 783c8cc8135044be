"""The user's files that travel with a run: the recipe, its imports, the tracked files beside it, what --ship names."""

import ast
import fnmatch
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from launcher._util.errors import CommandError, RecipeError
from launcher._util.user_paths import user_path
from launcher.contract.frozen import dataclass
from launcher.discovery.recipe import BridgeRecipe, Recipe, RecipeFile

IGNORE = ".launcherignore"
"""A file beside the recipe with patterns of names that do not travel, one on a line, as fnmatch reads them."""

_MOST_FILES = 2000
_MOST_BYTES = 50_000_000
_DIFF_BYTES = 100_000
_GIT_TIMEOUT_S = 20
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_BYTES = range(100, 1024)
"""A pointer is smaller than 1024 bytes, as the specification of Git LFS says."""


@dataclass(frozen=True)
class GitState:
    """The project's state when the run was made."""

    commit: str | None
    """None before the first commit."""
    branch: str | None
    """None where no branch is checked out."""
    changed: tuple[str, ...]
    """Tracked files below the recipe's directory that differ from the commit."""
    diff: str
    """Their differences, at most 100 kB."""


@dataclass(frozen=True)
class ShippedCode:
    """What travels: paths below code/recipe/ with their sources, and where they came from."""

    files: tuple[tuple[str, str], ...]
    git: GitState | None = None
    warnings: tuple[str, ...] = ()
    bytes: int = 0
    """Size of all files together."""


def shipped_code(
    recipe: Recipe, named: Iterable[str] = (), directory: Path = Path(), *, whole: bool = False
) -> ShippedCode:
    """Find what travels with a recipe; a recipe of Megatron Bridge is in the image already.

    `named` are the paths of --ship, relative to `directory`; `whole` ships all that lies beside the recipe, which is
    right for the copy in a run's directory. Raises RecipeError for a named path that does not exist, or is too much.
    """
    if not isinstance(recipe, RecipeFile):
        if named:
            whose = "Megatron Bridge's" if isinstance(recipe, BridgeRecipe) else "Megatron-LM's"
            raise RecipeError(f"--ship adds files to a recipe of your own, and this one is {whose}")
        return ShippedCode(())
    home = recipe.path.parent
    found = {recipe.path.name: recipe.path}
    if whole:
        found |= {path.relative_to(home).as_posix(): path for path in _files_below(home, hidden=True)}
        return ShippedCode(_pairs(found), bytes=_bytes(found))
    ignored = _ignored(home)
    found |= {path.relative_to(home).as_posix(): path for path in imported_files(recipe.path)}
    for text in named:
        added = _named(text, home, directory, ignored)
        for name in found.keys() & added.keys():
            if not added[name].samefile(found[name]):
                raise RecipeError(
                    f"{added[name]} and {found[name]} would both travel as {name!r}",
                    where="--ship",
                    hint="Rename one of them, or ship the directory that holds it.",
                )
        found |= added
    _check_size(found, "--ship")
    tracked, absent = _tracked(home, ignored)
    if tracked is None:
        return ShippedCode(_pairs(found), warnings=_pointers(found), bytes=_bytes(found))
    both = {**tracked, **found}
    if (size := _size(both)) is None:
        return ShippedCode(_pairs(both), _git_state(home), (*absent, *_pointers(both)), _bytes(both))
    warning = (
        f"{size} are tracked beside the recipe, which is too much to travel: only what it imports and --ship names "
        f"does. {IGNORE} beside it can leave out names, or move the recipe to a directory of its own"
    )
    return ShippedCode(_pairs(found), _git_state(home), (warning, *_pointers(found)), _bytes(found))


def imported_files(script: Path) -> list[Path]:
    """Return the files below the script's directory that it imports, directly or not, as far as its text says.

    A module is looked up as Python does for a script: in the script's directory. Imports by computed names are not
    found.
    """
    home, seen, waiting = script.parent, {script}, [script]
    while waiting:
        path = waiting.pop()
        for found in _imports(path, home):
            if found not in seen:
                seen.add(found)
                waiting.append(found)
    return sorted(seen - {script})


def _imports(path: Path, home: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return  # importing it says what is wrong
    package = path.relative_to(home).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module(home, tuple(alias.name.split(".")))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - (node.level - 1)] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            yield from _module(home, base)
            for alias in node.names:
                yield from _module(home, (*base, alias.name))


def _module(home: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files that importing a.b.c reads: the packages above it, and the module."""
    for end in range(1, len(parts) + 1):
        path = home.joinpath(*parts[:end])
        for candidate in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if candidate.is_file():
                yield candidate
                break


def _named(text: str, home: Path, directory: Path, ignored: tuple[str, ...]) -> dict[str, Path]:
    path = user_path(text, directory, where="--ship", error=RecipeError)
    if not path.exists():
        raise RecipeError(f"there is no file or directory {text!r} to travel with the recipe", where="--ship")
    # `..` must not lead out of the copy; a link keeps its own name.
    absolute = path.resolve() if ".." in path.parts else path.absolute()
    start = absolute.relative_to(home) if absolute.is_relative_to(home) else Path(absolute.name)
    if path.is_file():
        return {start.as_posix(): absolute}
    found: dict[str, Path] = {}
    for each in _files_below(absolute):
        one = each.relative_to(absolute)
        if not _is_ignored(one.as_posix(), ignored) and not _is_ignored((start / one).as_posix(), ignored):
            found[(start / one).as_posix()] = each
        if len(found) > _MOST_FILES:  # it may be the whole machine
            _check_size(found, "--ship")
    return found


def _files_below(directory: Path, *, hidden: bool = False) -> Iterator[Path]:
    """Yield the files, byte code left out; with `hidden` also those whose names begin with a dot.

    Links to directories are followed, but for those that lead back to where they lie.
    """
    for root, directories, names in os.walk(directory, followlinks=True):
        shown = (name for name in directories if name != "__pycache__" and (hidden or not name.startswith(".")))
        directories[:] = sorted(name for name in shown if not _leads_back(Path(root, name)))
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file() and (hidden or not name.startswith(".")):
                yield path


def _leads_back(directory: Path) -> bool:
    """Return whether a link names a directory above its own place, or one through which the way led to it."""
    if not directory.is_symlink():
        return False
    target = directory.resolve()
    return directory.parent.resolve().is_relative_to(target) or any(
        above.resolve() == target for above in directory.parents
    )


def _tracked(home: Path, ignored: tuple[str, ...]) -> tuple[dict[str, Path] | None, tuple[str, ...]]:
    """Return the tracked files below the recipe's directory, as they are now, and warnings of what cannot travel.

    Files of submodules, and those in directories that tracked links name, are among them. None outside a project of
    git.
    """
    listed = _git(home, "ls-files", "--recurse-submodules", "-z", "--", ".")
    if not listed:
        return None, ()
    found, warnings = dict[str, Path](), list[str]()
    for name in listed.split("\0"):
        if not name or _is_ignored(name, ignored):
            continue
        path = home / name
        if path.is_file():
            found[name] = path
        elif path.is_symlink() and path.is_dir():
            found |= {} if _leads_back(path) else _named(str(path), home, home, ignored)
        elif path.is_dir():
            warnings.append(
                f"the submodule {name} is not checked out, so its files do not travel: git submodule update"
            )
        elif "\N{REPLACEMENT CHARACTER}" in name:
            warnings.append(f"{name} does not travel, because its name is not UTF-8: rename it")
    return found, tuple(warnings)


def _pointers(found: dict[str, Path]) -> tuple[str, ...]:
    """Return a warning where a file is a pointer of Git LFS in place of its content."""
    names = [name for name, path in found.items() if path.stat().st_size in _POINTER_BYTES and _is_pointer(path)]
    if not names:
        return ()
    shown = f"{', '.join(sorted(names)[:3])}{' and others' if len(names) > 3 else ''}"
    return (f"{shown}: a pointer of Git LFS travels in place of the content: git lfs pull fetches it",)


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _git_state(home: Path) -> GitState:
    # One call where nothing has changed: each takes as long as a twentieth of a plan.
    status = _git(home, "status", "--porcelain=v2", "--branch", "--untracked-files=no", "-z", "--", ".") or ""
    lines = [line for line in status.split("\0") if line]
    head = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
    # `(initial)` and `(detached)` stand for none.
    texts = (head.get(f"branch.{name}", "(unknown)") for name in ("oid", "head"))
    commit, branch = (None if text.startswith("(") else text for text in texts)
    if all(line.startswith("# ") for line in lines):
        return GitState(commit, branch, (), "")
    compared = ("diff", "HEAD", "--no-ext-diff", "--no-color") if commit else ("diff", "--no-ext-diff", "--no-color")
    changed = (_git(home, *compared, "--relative", "--name-only", "-z", "--", ".") or "").split("\0")
    diff = _git(home, *compared, "--relative", "--", ".") or ""
    return GitState(commit, branch, tuple(name for name in changed if name), diff[:_DIFF_BYTES])


def _git(home: Path, *arguments: str) -> str | None:
    """Return what git prints; None without git and outside a project.

    Raises RecipeError where git refuses or does not answer: what it tracks must not be left out in silence.
    """
    from launcher._util.shell import LocalShell  # here: the tools that write the index run on Python 3.11

    if shutil.which("git") is None:
        return None
    try:
        done = LocalShell().run(
            ["git", "--no-optional-locks", "-C", str(home), *arguments], check=False, timeout_s=_GIT_TIMEOUT_S
        )
    except CommandError as error:
        raise _git_failed(home, error.message) from None
    if done.status == 0:
        return done.stdout
    if "not a git repository" in done.stderr:
        return None
    raise _git_failed(home, (done.stderr.strip().splitlines() or [f"status {done.status}"])[0])


def _git_failed(home: Path, reason: str) -> RecipeError:
    return RecipeError(
        f"git does not say which files beside the recipe are tracked, and so which travel: {reason}",
        where=str(home),
        hint="`git ls-files` in that directory shows the same; `git config --global --add safe.directory DIR` allows a "
        "project of another user.",
    )


def _ignored(home: Path) -> tuple[str, ...]:
    """Return the patterns of .launcherignore; none where there is no such file.

    Raises RecipeError for `!`, with which git takes names back: a name that must not travel is not guessed.
    """
    try:
        lines = (home / IGNORE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    for number, line in enumerate(lines, start=1):
        if line.startswith("!"):
            raise RecipeError(
                f"{line.strip()!r} is not a pattern here: names cannot be taken back",
                where=f"{home / IGNORE}:{number}",
                hint="State the names that do not travel more exactly.",
            )
    return tuple(pattern.removeprefix("./").rstrip("/") for pattern in patterns)


def _is_ignored(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern fits the path, one of the directories above it, or a name in it; with `/` first no name."""
    if not patterns:
        return False
    parts = name.split("/")
    above = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    candidates = (*above, *parts, *(f"/{one}" for one in above))
    return any(fnmatch.fnmatchcase(one, pattern) for pattern in patterns for one in candidates)


def _pairs(found: dict[str, Path]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((target, str(source)) for target, source in found.items()))


def _bytes(found: dict[str, Path]) -> int:
    return sum(path.stat().st_size for path in found.values())


def _size(found: dict[str, Path]) -> str | None:
    """Return the number and bytes of the files where they exceed the limits."""
    total = _bytes(found)
    if len(found) <= _MOST_FILES and total <= _MOST_BYTES:
        return None
    return f"{len(found)} files of {total / 1e6:.0f} MB"


def _check_size(found: dict[str, Path], where: str) -> None:
    if (size := _size(found)) is not None:
        raise RecipeError(
            f"{size} would be copied into each run, more than {_MOST_FILES} files or {_MOST_BYTES / 1e6:.0f} MB",
            where=where,
            hint=f"Mount a large directory instead (--mount), or leave names out by {IGNORE} beside the recipe.",
        )
