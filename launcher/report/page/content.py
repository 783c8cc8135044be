"""What a page is made of, without a word of HTML. Any text may be hostile: whoever renders it escapes it."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from launcher._util.shell import Shell
from launcher.rundir import RunDirectory


@dataclass(frozen=True)
class Subject:
    """Whose page it is, and what a section may ask: the run's directory, Slurm through `shell`, the time."""

    run: RunDirectory
    shell: Shell
    now: float


@dataclass(frozen=True)
class Text:
    """A paragraph. A warning says that something is missing or wrong."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Literal["plain", "warning"] = "plain"


@dataclass(frozen=True)
class Heading:
    """The title of what follows within a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Facts:
    """Names and their values, a line each."""

    kind: ClassVar[str] = "facts"
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Table:
    """Rows below a header; the columns named in `numeric` are aligned to the right."""

    kind: ClassVar[str] = "table"
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Plot:
    """A figure for Plotly: `data` and `layout` as its documentation has them, plain values that JSON can hold.

    `says` tells in words what it shows, for those who do not see it.
    """

    kind: ClassVar[str] = "plot"
    title: str
    data: tuple[dict[str, Any], ...]
    layout: dict[str, Any]
    says: str = ""
    half: bool = False
    """Whether two may stand beside each other where there is room."""
    still: bool = False
    """Whether there is nothing to zoom into."""


@dataclass(frozen=True)
class LogExcerpt:
    """Lines as a program wrote them."""

    kind: ClassVar[str] = "log"
    title: str
    lines: tuple[str, ...]


type Block = Text | Heading | Facts | Table | Plot | LogExcerpt


@dataclass(frozen=True)
class Section:
    """A named part of the page; `name` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


def facts(*rows: tuple[str, Any]) -> Facts:
    """Facts without those that are not known."""
    return Facts(tuple((name, str(value)) for name, value in rows if value not in (None, "")))


def text_of(value: Any, form: str = "") -> str:
    """A value for a cell: nothing for None, a number in this form, anything else as it is."""
    if value is None:
        return ""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return format(value, form) if number else str(value)


def mapping(value: Any) -> dict[str, Any]:
    """An object of a JSON file that may hold something else in its place."""
    return value if isinstance(value, dict) else {}
