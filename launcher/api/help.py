"""The pages of docs/, as they ship with the launcher, for reading in a terminal."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import RequestError
from launcher._util.resources import resource
from launcher.contract.values import nearest

SECTIONS = {
    "tutorial": "Tutorial",
    "how-to": "How to",
    "reference": "Reference",
    "explanation": "Explanation",
    "measurements": "Measurements",
    "how-to/contribute": "Contribute",
}
"""Folders of docs/ in the order in which their pages are listed."""


@dataclass(frozen=True)
class Topic:
    """A page that `launcher help NAME` prints."""

    name: str
    section: str
    title: str
    path: Path

    @property
    def text(self) -> str:
        """The page, in Markdown, with links written as topics."""
        names = {topic.path: topic.name for topic in topics()}
        return _with_topics(self.path.read_text(encoding="utf-8"), self.path.parent, names)


def topics() -> tuple[Topic, ...]:
    """Return all pages; of two with one file name the second is called by its folder too: `measurements/network`."""
    found: dict[str, Topic] = {}
    for folder, section in SECTIONS.items():
        for path in sorted((resource("docs") / folder).glob("*.md")):
            name = path.stem if path.stem not in found else f"{folder}/{path.stem}"
            found[name] = Topic(name, section, _title(path), path)
    return tuple(found.values())


def find_topic(name: str) -> Topic:
    """Return the page of this name, also with its folder or ending. Raises RequestError with the nearest names."""
    known = {topic.name: topic for topic in topics()}
    plain = name.removesuffix(".md").removeprefix("docs/")
    if plain in known:
        return known[plain]
    whole = f"/{plain}.md"
    if "/" in plain and (fitting := [topic for topic in known.values() if str(topic.path).endswith(whole)]):
        return fitting[0]
    raise RequestError(f"there is no topic {name!r}", hint=_hint(plain, known.values()))


@dataclass(frozen=True)
class Explained:
    """One message that an error with an id may have."""

    id: str
    kind: str
    message: str
    todo: str


def find_messages(error_id: str) -> tuple[Explained, ...]:
    """Return the messages that errors with this id have, in brackets or not; none for an unknown id."""
    text = (resource("docs") / "reference" / "messages.md").read_text(encoding="utf-8")
    wanted = error_id.strip("[]")
    rows = (re.split(r"(?<!\\) ?\| ?", line.strip())[1:-1] for line in text.splitlines() if line.startswith("| `"))
    found = (tuple(cell.strip().strip("`").replace("\\|", "|") for cell in row) for row in rows)
    return tuple(Explained(*row) for row in found if len(row) == 4 and row[0] == wanted)


def _hint(name: str, known: Iterable[Topic]) -> str:
    word = name.lower()
    held = [topic.name for topic in known if len(word) > 2 and (word in topic.name or word in topic.title.lower())]
    near = list(dict.fromkeys([*held, *nearest(name, [topic.name for topic in known])]))[:5]
    guess = f"Did you mean: {', '.join(near)}? " if near else ""
    return f"{guess}`launcher help` lists all topics."


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return next((line.removeprefix("# ").strip() for line in file if line.startswith("# ")), path.stem)


def _with_topics(text: str, directory: Path, names: Mapping[Path, str]) -> str:
    """Return a page whose links to other pages are the commands that print them."""

    def command(link: re.Match[str]) -> str:
        name = names.get((directory / link[2]).resolve())
        return f"{link[1]} (launcher help {name})" if name else link[1]

    text = re.sub(r"\A<!--.*?-->\s*", "", text, flags=re.DOTALL)
    return re.sub(r"\[([^\]\n]+)\]\((?!https?:)([^)#\n]*)(?:#[^)\n]*)?\)", command, text)
