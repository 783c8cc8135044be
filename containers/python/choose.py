"""Print a part of a requirements file, hashes and all.

    python3 containers/python/choose.py REQUIREMENTS [--only PATTERNS] [--without PATTERNS ...]

PATTERNS is a file with one shell pattern of package names a line (`#` starts a comment). Python 3.10, standard library.
"""

import argparse
import fnmatch
import re
from collections.abc import Iterator, Sequence
from pathlib import Path


def patterns(files: Sequence[Path]) -> list[str]:
    """Read the patterns in some files."""
    lines = [line.partition("#")[0].strip() for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if line]


def entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and lines of each requirement: an entry starts at the margin, what is indented continues it."""
    for entry in re.findall(r"^[A-Za-z0-9].*\n(?:[ \t]+.*\n)*", text, re.MULTILINE):
        yield re.split(r"[^A-Za-z0-9._-]", entry, maxsplit=1)[0].lower().replace("_", "-"), entry


def matches(name: str, wanted: Sequence[str]) -> bool:
    """Return whether one of the patterns matches this package."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)


def main() -> None:
    """Read, choose and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("requirements", type=Path)
    parser.add_argument("--only", type=Path, action="append", default=[])
    parser.add_argument("--without", type=Path, action="append", default=[])
    asked = parser.parse_args()
    only, without = patterns(asked.only), patterns(asked.without)
    for name, entry in entries(asked.requirements.read_text() + "\n"):
        if (not asked.only or matches(name, only)) and not matches(name, without):
            print(entry, end="")


if __name__ == "__main__":
    main()
