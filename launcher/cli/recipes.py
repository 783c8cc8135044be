"""List the recipes that ship with the launcher, with what each says of itself."""

import argparse
import ast
import fnmatch
from pathlib import Path

from launcher.cli.printing import print_json
from launcher.resources import resource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `launcher recipes`."""
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="", help="only names that hold this text")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """List recipes by path, so that a line can be copied behind `launcher run`."""
    pattern = parsed.pattern if any(sign in parsed.pattern for sign in "*?[") else f"*{parsed.pattern}*"
    paths = [path for path in sorted(resource("recipes").glob("*.py")) if fnmatch.fnmatch(path.name, pattern)]
    if parsed.json:
        print_json({"recipes": [{"path": str(path), "description": _first_line(path)} for path in paths]})
        return 0
    for path in paths:
        print(f"{_shown(path)}  {_first_line(path)}")
    return 0 if paths else 1


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
