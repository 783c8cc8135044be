"""Text for people: without control characters that a terminal would obey, and in columns."""

import re
from collections.abc import Sequence

_COLOUR = r"\033\[(?:0|1|2|31|32|33)m"
_KEPT_IN_TEXT = re.compile(rf"(\n|\t|{_COLOUR})")
_KEPT_IN_CELL = re.compile(rf"({_COLOUR})")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with two spaces between columns, each as wide as its longest cell; rows have equally many cells.

    Nothing is cut off, and control characters of cells become escape sequences.
    """
    cells = [row if "".join(row).isprintable() else [_escaped(cell, _KEPT_IN_CELL) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells)
    return ["  ".join(row).rstrip() for row in padded]


def printable(text: str) -> str:
    """Return the text with each character that is not printable as its escape sequence: a terminal would obey it."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def safe(text: str) -> str:
    """Return lines for a terminal: of all control characters only the launcher's own colours, and tabs, are left.

    Names, reasons and logs come from files and programs.
    """
    return _escaped(text, _KEPT_IN_TEXT)


def _escaped(text: str, kept: re.Pattern[str]) -> str:
    if text.isprintable():
        return text
    return "".join(part if number % 2 else printable(part) for number, part in enumerate(kept.split(text)))
