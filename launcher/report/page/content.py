"""The content of a page, free of HTML. Any text may be hostile; the renderer escapes it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

from launcher._util.shell import Shell
from launcher.rundir import RunDirectory


@dataclass(frozen=True)
class Subject:
    """The subject of a page: the run directory, a shell for queries to Slurm, the time (seconds since the epoch)."""

    run: RunDirectory
    shell: Shell
    now: float


Tone: TypeAlias = Literal["good", "active", "bad", "attention", "waiting"]


@dataclass(frozen=True)
class Text:
    """A paragraph; the tone `warning` is for something missing or wrong."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Literal["plain", "warning"] = "plain"


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Facts:
    """Names and values, one pair on each line."""

    kind: ClassVar[str] = "facts"
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cell:
    """A cell that is a link within a served site, or the state of a run in its colour."""

    text: str
    href: str = ""
    tone: Tone | Literal[""] = ""


@dataclass(frozen=True)
class Table:
    """Rows below a header; the columns in `numeric` are aligned to the right."""

    kind: ClassVar[str] = "table"
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Cell, ...], ...]
    numeric: frozenset[str] = frozenset()
    sortable: bool = False
    """Whether a click on a column sorts the rows, and a field above filters them."""


@dataclass(frozen=True)
class Plot:
    """A figure for Plotly: `data` and `layout` as in its documentation, as values that JSON can hold.

    `description` says in words what the figure shows.
    """

    kind: ClassVar[str] = "plot"
    title: str
    data: tuple[dict[str, Any], ...]
    layout: dict[str, Any]
    description: str = ""
    half: bool = False
    """Whether two such plots may be placed side by side."""
    still: bool = False
    """Whether zooming is disabled."""
    axes: tuple[dict[str, list[float | None]], ...] = ()
    """For each trace what else it can be drawn over, by the name of the axis; the controls of a page switch it."""


@dataclass(frozen=True)
class LogExcerpt:
    """Lines of a log, as a program wrote them; with `folded` they are shown on request."""

    kind: ClassVar[str] = "log"
    title: str
    lines: tuple[str, ...]
    folded: bool = False


@dataclass(frozen=True)
class StateBanner:
    """The state of a run in one word, in the colour of its tone, with a sentence about it."""

    kind: ClassVar[str] = "state"
    word: str
    tone: Tone
    text: str = ""


@dataclass(frozen=True)
class Controls:
    """What is set for all plots of a page at once: logarithmic scales, smoothing, one of `axes` beside iterations."""

    kind: ClassVar[str] = "controls"
    title: str
    axes: tuple[str, ...] = ()


Block: TypeAlias = Text | Heading | Facts | Table | Plot | LogExcerpt | StateBanner | Controls


@dataclass(frozen=True)
class Section:
    """A part of the page; `name` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


def facts(*rows: tuple[str, Any]) -> Facts:
    """Return a Facts block without unknown values."""
    return Facts(tuple((name, str(value)) for name, value in rows if value not in (None, "")))


def text_of(value: Any, form: str = "") -> str:
    """Format a value for a cell: empty for None, a number with this format, anything else as text."""
    if value is None:
        return ""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return format(value, form) if number else str(value)


def as_mapping(value: Any) -> dict[str, Any]:
    """Return an object of a JSON file; an empty one if the file holds another kind of value."""
    return value if isinstance(value, dict) else {}
