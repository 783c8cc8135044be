"""Text in columns, for output that is not a terminal: nothing is cut off."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with two spaces between columns, each as wide as its longest cell; rows have equally many cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(cells).rstrip() for cells in padded]


def printable(text: str) -> str:
    """Return the text with each character that is not printable as its escape sequence: a terminal would obey it."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
