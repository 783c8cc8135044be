"""What a plan has to know of profilers: the user's own class, and what is installed here."""

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import SpecError
from launcher.contract.profiles import find_nsys

_METHODS = ("start", "stop", "save")


@dataclass(frozen=True)
class ProfilerClass:
    """A user's own profiler: its file, its class, and how its files' names end (`extension` of the class)."""

    path: Path
    class_name: str
    extension: str


def read_profiler_class(text: str, directory: Path) -> ProfilerClass:
    """The class of `path.py:Class`, read without running it.

    Raises SpecError where there is no such file or class, or a method of its own is missing. A class with bases may
    inherit them: the job looks again.
    """
    name, _, class_name = text.rpartition(":")
    path = (directory / Path(name).expanduser()).resolve()
    if not path.is_file():
        raise SpecError(
            f"there is no file {name!r}", where="--profiler", hint="A profiler of your own is path.py:Class."
        )
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise SpecError(f"the profiler's file is not valid Python: {error}", where=str(path)) from error
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found = classes.get(class_name)
    if found is None:
        there = f"It has {', '.join(classes)}." if classes else "It has none."
        raise SpecError(f"the file has no class {class_name!r}", where=str(path), hint=there)
    methods = {node.name for node in found.body if isinstance(node, ast.FunctionDef)}
    lacking = [method for method in _METHODS if method not in methods]
    if lacking and not found.bases:
        raise SpecError(
            f"the class {class_name} has no {', '.join(f'{method}()' for method in lacking)}",
            where=f"{path}:{found.lineno}",
            hint="A profiler has start(), stop() and save(path).",
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
    """The nsys that ranks on this machine would start."""
    return find_nsys(path=environ.get("PATH"))


def has_viztracer() -> bool:
    """Whether the launcher's own Python has VizTracer: that Python runs local ranks."""
    return importlib.util.find_spec("viztracer") is not None


def find_nsys_below(directory: str) -> str:
    """The program nsys in an installation of Nsight Systems. Raises SpecError."""
    root = Path(directory).resolve()
    for pattern in ("nsys", "bin/nsys", "target-linux-*/nsys"):
        for path in sorted(root.glob(pattern)):
            # The link in bin/ is not followed: it may lead out of what is mounted.
            if path.is_file():
                return str(path)
    raise SpecError(
        "there is no nsys in this directory",
        where=f"--nsys-from {directory}",
        hint="Name one such as /opt/nvidia/nsight-systems/2025.5.1, with bin/ or target-linux-x64/ in it.",
    )
