"""Imports from the run's code/ with few calls to the file system, and without byte code left in it.

Python's own finder looks at a directory's time at each import that passes it, so at code/ for every package of the
training stack, and at several names for each module; the first ranks then write byte code into the shared directory.
code/ does not change while a run lives: each directory is listed once, and a module costs one open.
"""

import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
    SourcelessFileLoader,
)
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Optional


class CodeLoader(SourceFileLoader):
    """Compiles a module's source, and neither reads nor writes byte code."""

    def get_code(self, fullname: str) -> CodeType:
        """Return the code of the module."""
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


_LOADERS = (
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (CodeLoader, SOURCE_SUFFIXES),
    (SourcelessFileLoader, BYTECODE_SUFFIXES),  # a module of the user's may have no source
)


class CodeFinder(FileFinder):
    """Finds modules in one directory of code/, which it lists once."""

    def __init__(self, directory: Path, *, only: Optional[str] = None) -> None:
        """Find what is in `directory`; what is not called `only`, Python's own finder takes where it is there."""
        super().__init__(str(directory), *_LOADERS)
        self._directory = directory
        self._only = only
        self._entries: Optional[frozenset[str]] = None
        self._stems: frozenset[str] = frozenset()

    def find_spec(self, fullname: str, target: Optional[ModuleType] = None) -> Optional[ModuleSpec]:
        """Return the spec of a module; None where the directory does not have it."""
        if self._entries is None:
            try:
                self._entries = frozenset(path.name for path in self._directory.iterdir())
            except OSError:
                return super().find_spec(fullname, target)
            self._stems = frozenset(entry.partition(".")[0] for entry in self._entries)
        name = fullname.rpartition(".")[2]
        if name not in self._stems:
            return None
        if self._only in (None, name):
            path = self._directory / name
            if name in self._entries and (initial := path / "__init__.py").is_file():
                return _spec(fullname, initial, package=path)
            if (module := f"{name}.py") in self._entries:
                return _spec(fullname, self._directory / module)
        return super().find_spec(fullname, target)

    def invalidate_caches(self) -> None:
        """List the directory anew at the next import."""
        super().invalidate_caches()
        self._entries = None


def _spec(name: str, path: Path, *, package: Optional[Path] = None) -> Optional[ModuleSpec]:
    loader = CodeLoader(name, str(path))
    below = None if package is None else [str(package)]
    return spec_from_file_location(name, path, loader=loader, submodule_search_locations=below)


def take_over(code: Path) -> None:
    """Import the launcher's modules below `code`, the directory of this run's code, as this module says.

    The user's own files there are found as ever, but passed over without a call by imports of other names. A recipe
    that writes a module beside itself calls importlib.invalidate_caches() before it imports that, as Python asks.
    """
    package = code / "launcher"

    def hook(directory: str) -> FileFinder:
        if f"{directory}/".startswith(f"{package}/"):
            return CodeFinder(Path(directory))
        if f"{directory}/".startswith(f"{code}/"):
            return CodeFinder(Path(directory), only=package.name)
        raise ImportError(f"{directory} is not below {code}")

    sys.path_hooks.insert(0, hook)
    for directory in (str(code), str(package), str(package / "job")):  # those that were imported from already
        sys.path_importer_cache.pop(directory, None)
