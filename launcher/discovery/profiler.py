"""Profilers on this machine: the user's own profiler class, nsys and VizTracer."""

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from launcher._util.errors import ConfigError
from launcher._util.user_paths import exists, user_path
from launcher.contract.files import read_text
from launcher.contract.frozen import dataclass
from launcher.contract.profiles import find_nsys
from launcher.discovery.recipe import SOURCE_BYTES

_METHODS = ("start", "stop", "save")


@dataclass(frozen=True)
class ProfilerClass:
    """A user's own profiler: its file, its class, and the extension of its reports (`extension` of the class)."""

    path: Path
    class_name: str
    extension: str


def read_profiler_class(text: str, directory: Path) -> ProfilerClass:
    """Read the profiler class `path.py:Class` without running its file.

    Raises ConfigError if the file or class does not exist, or if start(), stop() or save() is missing in a class
    without base classes. A class with base classes may inherit them; the job checks again.
    """
    name, _, class_name = text.rpartition(":")
    path = user_path(name, directory, where="--profiler").resolve()
    if not exists(path):
        raise ConfigError(
            f"there is no file {name!r}", where="--profiler", hint="Name a profiler of your own as path.py:Class."
        )
    try:
        tree = ast.parse(read_text(path, limit=SOURCE_BYTES))
    except OSError as error:
        raise ConfigError(f"the profiler's file cannot be read: {error.strerror}", where=str(path)) from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"the profiler's file is not valid Python: {error}", where=str(path)) from error
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found = classes.get(class_name)
    if found is None:
        hint = f"Its classes: {', '.join(classes)}." if classes else "It defines no class."
        raise ConfigError(f"the file has no class {class_name!r}", where=str(path), hint=hint)
    methods = {node.name for node in found.body if isinstance(node, ast.FunctionDef)}
    lacking = [method for method in _METHODS if method not in methods]
    if lacking and not found.bases:
        raise ConfigError(
            f"the class {class_name} has no {', '.join(f'{method}()' for method in lacking)}",
            where=f"{path}:{found.lineno}",
            hint="A profiler class needs start(), stop() and save(path).",
        )
    return ProfilerClass(path, class_name, _extension(found))


def _extension(node: ast.ClassDef) -> str:
    for each in node.body:
        names = (
            each.targets if isinstance(each, ast.Assign) else [each.target] if isinstance(each, ast.AnnAssign) else []
        )
        if any(isinstance(name, ast.Name) and name.id == "extension" for name in names):
            value = getattr(each, "value", None)
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and "/" not in value.value:
                return value.value.lstrip(".")
    return "profile"


def find_local_nsys(environ: Mapping[str, str]) -> str | None:
    """Return the path of the nsys that ranks on this machine would start; None if there is none."""
    return find_nsys(path=environ.get("PATH"))


def has_viztracer() -> bool:
    """Return whether the launcher's own Python, which runs local ranks, has VizTracer."""
    return importlib.util.find_spec("viztracer") is not None


def find_nsys_below(directory: str) -> str:
    """Return the path of nsys in an installation of Nsight Systems. Raises ConfigError if there is none."""
    root = user_path(directory, Path.cwd(), where="--nsys-from").resolve()
    for pattern in ("nsys", "bin/nsys", "target-linux-*/nsys"):
        for path in sorted(root.glob(pattern)):
            # The symbolic link in bin/ is not followed: its target may lie outside the mounted directory.
            if path.is_file():
                return str(path)
    raise ConfigError(
        "there is no nsys in this directory",
        where=f"--nsys-from {directory}",
        hint="Name a directory such as /opt/nvidia/nsight-systems/2025.5.1, which contains bin/ or target-linux-x64/.",
    )
