"""launcher/api calls and returns; parsing arguments and printing are the command line's."""

import ast
from collections.abc import Iterator
from pathlib import Path

import launcher.api

MODULES = sorted(Path(launcher.api.__file__).parent.rglob("*.py"))


def calls(path: Path) -> Iterator[str]:
    """Return the names that a module calls."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_nothing_in_the_api_prints() -> None:
    assert MODULES
    printing = ("print", "sys.stdout.write", "sys.stderr.write", "sys.exit", "exit")
    assert [(path.name, name) for path in MODULES for name in calls(path) if name in printing] == []
