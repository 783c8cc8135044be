"""Answers of --check-config, kept for as long as nothing that they depend on has changed: files count by content."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher._util.user_paths import cache_directory
from launcher._util.version import __version__
from launcher.api.discover import Discovered
from launcher.backends.entrypoint_call import why_unavailable
from launcher.contract import files
from launcher.contract.records.request import CheckRequest
from launcher.discovery.recipe import RecipeFile
from launcher.planning.task import TaskPlan

_KEPT = 200
_MOST_FILES = 2000
_STACK = ("megatron_bridge", "megatron_core", "torch", "transformer_engine", "transformers")
"""Beginnings of the names of packages that decide what a recipe makes."""


class CheckCache:
    """The kept answer to one request.

    It lies in the directory LAUNCHER_CACHE, else ~/.cache/megatron-launcher (below XDG_CACHE_HOME if that is set), and
    only its user can read it.
    """

    def __init__(self, found: Discovered, task: TaskPlan, request: CheckRequest, env: Mapping[str, str]) -> None:
        self._directory = cache_directory(found.inputs.host.environ) / "checks"
        try:
            self._path: Path | None = self._directory / f"{_digest(found, task, request, env)}.json"
        except (OSError, _UnknownStackError):
            self._path = None

    def read(self) -> tuple[dict[str, Any], str] | None:
        """Return the answer, and when it was given; None if there is none that counts."""
        if self._path is None:
            return None
        answer = files.read_object(self._path)
        if answer is None or answer.get("ok") is not True:
            return None
        try:
            given = time.localtime(self._path.stat().st_mtime)
        except OSError:
            return None
        return answer, time.strftime("%Y-%m-%d %H:%M", given)

    def write(self, answer: Mapping[str, Any]) -> None:
        """Keep the answer; without space or permission nothing is kept."""
        if self._path is None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            files.write_text(self._path, json.dumps(answer), mode=0o600)
            kept = sorted(self._directory.glob("*.json"), key=lambda path: path.stat().st_mtime)
            for path in kept[:-_KEPT]:
                path.unlink(missing_ok=True)
        except OSError:
            return  # an answer that is not kept is asked for again


class _UnknownStackError(Exception):
    """It cannot be seen cheaply whether something has changed."""


def _digest(found: Discovered, task: TaskPlan, request: CheckRequest, env: Mapping[str, str]) -> str:
    """Return a digest of all that the answer depends on. Raises OSError, _UnknownStackError."""
    image = found.inputs.image
    if image is None and found.inputs.request.check_on == "node":
        raise _UnknownStackError  # the nodes' own
    if image is not None and image.digest is None:
        raise _UnknownStackError  # the content of the image was never computed
    if image is not None and found.inputs.request.check_on != "node" and why_unavailable(image) is not None:
        raise _UnknownStackError  # this machine's Megatron answers in place of the image's
    if found.inputs.mcore is not None:
        raise _UnknownStackError  # a Megatron-Core of the user's own, whose files are not read here
    python = found.release.python or found.inputs.host.python
    known = {
        "launcher": __version__,
        "request": request,
        "environment": sorted(env.items()),
        "image": image.digest if image else None,
        "release": found.release.version,
        "python": [python, *_packages(found)] if image is None else None,
        "code": _contents([Path(source) for _target, source in task.code]),
        "beside": _contents(_sources(found.inputs.recipe.path.parent))
        if isinstance(found.inputs.recipe, RecipeFile)
        else None,
        "named": [_state(path) for path in named_paths(request)],
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _packages(found: Discovered) -> tuple[str, int]:
    """Return when something was last installed where Megatron Bridge is.

    Raises _UnknownStackError where that is not known, and where the stack is imported from its sources.
    """
    if found.release.site is None:
        raise _UnknownStackError
    site = Path(found.release.site)
    for link in site.glob("*.dist-info/direct_url.json"):
        if link.parent.name.startswith(_STACK) and '"editable": true' in link.read_text(encoding="utf-8"):
            raise _UnknownStackError
    return str(site), site.stat().st_mtime_ns


def _contents(paths: Iterable[Path]) -> list[tuple[str, str]]:
    return [(str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]


def _sources(directory: Path) -> list[Path]:
    """Return the Python files below the recipe's directory, which it can import."""
    found = []
    for root, directories, names in os.walk(directory):
        directories[:] = sorted(name for name in directories if not name.startswith(".") and name != "__pycache__")
        found += [Path(root, name) for name in sorted(names) if name.endswith(".py")]
        if len(found) + len(directories) > _MOST_FILES:
            raise _UnknownStackError
    return found


def named_paths(request: CheckRequest) -> Iterator[Path]:
    """Yield the paths among the values of arguments and overrides that exist, with what lies in directories.

    A prefix of token ids stands for its two files.
    """
    options = [str(one) for one in request["options"].values()]
    for text in _texts([request["arguments"], options, request["overrides"]]):
        value = text.rpartition("=")[2].strip("'\"")
        path = Path(value)
        if not value.startswith("/"):
            continue
        yield from (each for ending in (".bin", ".idx") if (each := Path(f"{value}{ending}")).exists())
        if path.exists():
            yield path
            yield from sorted(path.iterdir()) if path.is_dir() else ()


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _state(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns
