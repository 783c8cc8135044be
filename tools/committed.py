"""Files that a tool generates and the project commits: written anew, or compared with what is committed."""

import argparse
import difflib
from pathlib import Path


def options_of(arguments: list[str] | None, document: str | None, directory: Path) -> argparse.Namespace:
    """Parse `--check` and `--directory`; `document` is the tool's own docstring, whose first line describes it."""
    parser = argparse.ArgumentParser(description=(document or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed file instead of writing it")
    parser.add_argument("--directory", type=Path, default=directory, help="where the file lies")
    return parser.parse_args(arguments)


def write_or_compare(path: Path, text: str, *, check: bool, summary: str, context: int = 3) -> int:
    """Write a file and print its summary, or print how it differs; return the exit status: 1 for a difference."""
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"{path}: {summary}")
        return 0
    committed = path.read_text(encoding="utf-8") if path.exists() else ""
    difference = list(
        difflib.unified_diff(committed.splitlines(), text.splitlines(), str(path), "generated", lineterm="", n=context)
    )
    print("\n".join(difference) if difference else f"{path}: as generated")
    return 1 if difference else 0
