"""Two loss curves and their difference as a PNG, drawn with the standard library alone."""

import itertools
import math
import struct
import zlib
from collections.abc import Sequence

from launcher.correlate.history import Point

WIDTH, HEIGHT = 900, 560
_UPPER, _LOWER = (70, 40, 870, 330), (70, 380, 870, 520)
"""Left, top, right and bottom of the two plots, in pixels."""
_BLACK, _GREY, _BLUE, _ORANGE, _GREEN = (30, 30, 30), (200, 200, 200), (40, 120, 196), (194, 84, 15), (26, 128, 96)

_FONT = {
    "0": "7:5:5:5:7",
    "1": "2:6:2:2:7",
    "2": "7:1:7:4:7",
    "3": "7:1:7:1:7",
    "4": "5:5:7:1:1",
    "5": "7:4:7:1:7",
    "6": "7:4:7:5:7",
    "7": "7:1:1:2:2",
    "8": "7:5:7:5:7",
    "9": "7:5:7:1:7",
    ".": "0:0:0:0:2",
    "-": "0:0:7:0:0",
    "+": "0:2:7:2:0",
    "e": "0:7:7:4:7",
    "l": "4:4:4:4:7",
    "o": "0:7:5:5:7",
    "s": "0:7:6:3:7",
    "i": "2:0:2:2:2",
    "t": "2:7:2:2:3",
    "r": "0:7:4:4:4",
    "a": "0:7:3:5:7",
    "n": "0:7:5:5:5",
    "d": "1:1:7:5:7",
    "f": "3:2:7:2:2",
    "c": "0:7:4:4:7",
    ":": "0:2:0:2:0",
    " ": "0:0:0:0:0",
}
"""Glyphs of 3 by 5 pixels, a digit for each row (4: the left pixel, 2: the middle one, 1: the right one)."""


Colour = tuple[int, int, int]


class Canvas:
    """An image in memory."""

    def __init__(self) -> None:
        self.rows = [bytearray(b"\xff" * (3 * WIDTH)) for _ in range(HEIGHT)]

    def dot(self, x: float, y: float, colour: Colour) -> None:
        """Colour one pixel; outside the image nothing happens."""
        column, row = round(x), round(y)
        if 0 <= column < WIDTH and 0 <= row < HEIGHT:
            self.rows[row][3 * column : 3 * column + 3] = bytes(colour)

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: Colour, *, wide: int = 1) -> None:
        """Draw a line of `wide` pixels."""
        steps = max(1, math.ceil(max(abs(end[0] - start[0]), abs(end[1] - start[1]))))
        for step in range(steps + 1):
            x = start[0] + (end[0] - start[0]) * step / steps
            y = start[1] + (end[1] - start[1]) * step / steps
            for offset in range(wide):
                self.dot(x, y + offset, colour)

    def text(self, x: int, y: int, words: str, colour: Colour = _BLACK, *, scale: int = 2) -> None:
        """Write digits and the few letters that the font has."""
        for index, sign in enumerate(words.lower()):
            for row, bits in enumerate(_FONT.get(sign, _FONT[" "]).split(":")):
                for column in range(3):
                    if int(bits) & (4 >> column):
                        left, top = x + scale * (4 * index + column), y + scale * row
                        for dx in range(scale):
                            for dy in range(scale):
                                self.dot(left + dx, top + dy, colour)

    def png(self) -> bytes:
        """Return the image as a PNG file."""
        header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
        data = zlib.compress(b"".join(b"\0" + bytes(row) for row in self.rows), 9)
        chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def losses_png(left: Sequence[Point], right: Sequence[Point]) -> bytes:
    """Return a PNG: above the losses, the left side blue below the right side's orange; below their difference."""
    canvas = Canvas()
    curves = [_finite(side) for side in (left, right)]
    others = dict(curves[1])
    apart = [(iteration, others[iteration] - loss) for iteration, loss in curves[0] if iteration in others]
    _draw(canvas, _UPPER, [(curves[0], _BLUE, 4), (curves[1], _ORANGE, 1)])
    canvas.text(_UPPER[0], 18, "loss")
    _draw(canvas, _LOWER, [(apart, _GREEN, 2)])
    canvas.text(_LOWER[0], 360, "difference")
    canvas.text(_LOWER[2] - 72, HEIGHT - 16, "iteration")
    return canvas.png()


def _finite(points: Sequence[Point]) -> list[tuple[int, float]]:
    return [(one.iteration, one.loss) for one in points if one.loss is not None and math.isfinite(one.loss)]


def _draw(
    canvas: Canvas, box: tuple[int, int, int, int], curves: Sequence[tuple[Sequence[tuple[int, float]], Colour, int]]
) -> None:
    left, top, right, bottom = box
    for corner in ((left, top), (left, bottom)):
        canvas.line(corner, (right, corner[1]), _GREY)
    canvas.line((left, top), (left, bottom), _GREY)
    points = [point for curve, _, _ in curves for point in curve]
    if not points:
        return
    low, high = min(value for _, value in points), max(value for _, value in points)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1e-9
    low, high = low - margin, high + margin
    first, last = min(at for at, _ in points), max(at for at, _ in points)

    def place(point: tuple[int, float]) -> tuple[float, float]:
        share = (point[0] - first) / (last - first) if last > first else 0.5
        return left + share * (right - left), bottom - (point[1] - low) / (high - low) * (bottom - top)

    for curve, colour, wide in curves:
        for one, other in itertools.pairwise(curve):
            canvas.line(place(one), place(other), colour, wide=wide)
        for point in curve:
            x, y = place(point)
            for dx in (-1, 0, 1):
                for dy in (-1, 0, 1):
                    canvas.dot(x + dx, y + dy, colour)
    canvas.text(4, top, f"{high:.3g}")
    canvas.text(4, bottom - 10, f"{low:.3g}")
    canvas.text(left, bottom + 6, str(first))
    canvas.text(right - 8 * len(str(last)), bottom + 6, str(last))
