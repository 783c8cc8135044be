"""What people read is plain English: messages, help, docstrings, comments, what scripts print, and the documents.

`python tests/test_style.py [PATH ...]` lists what is still to be mended, pending or not (default: everything).
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A phrase that reads as translated, or a word of our own for what has a usual name, and what to write instead.
BANNED: dict[str, str] = {
    r"(?<!there )\b(?:is|are|was|were) no\b(?! (?:longer|more|less|later)\b)": "X is not a Y",
    r"\b(?:tells|told)\b": "shows, says, reports, or the fact itself",
    r"\b(?:nobody|whoever)\b": "name who, or use the passive",
    r"\bof it(?=\s*(?:[.,;:!?)]|$))": "name what it is",
    r"\bis what\b": "make the noun the subject",
    r"\b(?:house|rooms?)\b": "space, package, directory",
    r"\bverbs?\b": "command",
    r"\b(?:foreseen|hindrance|misfit|surroundings)\b": "the field's term",
}
PATTERNS = [(re.compile(pattern, re.IGNORECASE | re.MULTILINE), better) for pattern, better in BANNED.items()]
ANY = re.compile("|".join(BANNED), re.IGNORECASE | re.MULTILINE)


class Hit(NamedTuple):
    path: str
    line: int
    text: str
    better: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}  (better: {self.better})"


def files() -> list[Path]:
    found = [
        path for folder in ("launcher", "recipes", "benchmarks", "tests") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    found.remove(Path(__file__).resolve())  # it quotes what it refuses
    found += ROOT.glob("tools/*.py")
    found += [*ROOT.glob("templates/*.j2"), *ROOT.glob("containers/**/*.sh"), *ROOT.glob("tools/*.sh")]
    found += [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("containers/**/*.md"),
        *ROOT.glob("configs/**/*.md"),
    ]
    found += [ROOT / "entrypoint.py", ROOT / "srun.sh", ROOT / "Makefile"]
    return sorted(found)


def python_texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield names of tests as sentences, comments and every piece of prose, which has white space.

    The values in an f-string are `{}`.
    """
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")
    yield from ((line, text) for line, text in python_strings(nodes) if re.search(r"\s", text))


def python_strings(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    parts: set[ast.AST] = set()
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            parts.update(node.values)
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values),
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            yield node.lineno, node.value


def shell_texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield comments, and of other lines quoted words with white space in them."""
    for number, line in enumerate(source.splitlines(), 1):
        if line.lstrip().startswith(("#", "{#")):
            yield number, line
            continue
        for quoted in re.findall(r'"((?:[^"\\]|\\.)*\s(?:[^"\\]|\\.)*)"', line):
            yield number, quoted


def markdown_texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield lines outside code blocks, without what is set in code type."""
    in_code = False
    for number, line in enumerate(source.splitlines(), 1):
        if line.startswith("```"):
            in_code = not in_code
        elif not in_code:
            yield number, re.sub(r"`[^`]*`", "``", line)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    source = path.read_text()
    if path.suffix == ".py":
        return python_texts(source)
    if path.suffix == ".md":
        return markdown_texts(source)
    return shell_texts(source)


def hits_in(path: Path) -> list[Hit]:
    found = []
    for line, text in texts(path):
        if ANY.search(text) is None:
            continue
        for pattern, better in PATTERNS:
            for match in pattern.finditer(text):
                around = text[max(0, match.start() - 40) : match.end() + 30].strip()
                at = line + text.count("\n", 0, match.start())
                found.append(Hit(str(path.relative_to(ROOT)), at, " ".join(around.split()), better))
    return found


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_people_read_is_plain_english(path: Path) -> None:
    hits = hits_in(path)
    assert not hits, "\n" + "\n".join(map(str, hits))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("{} is no recipe", 1),
        ("there is no recipe; it is no longer there", 0),
        ("only running it tells", 1),
        ("nobody uses the rest of it.", 2),
        ("of its files", 0),
        ("`launcher VERB --help`", 1),
    ],
)
def test_banned_phrases_are_found(text: str, count: int) -> None:
    assert sum(bool(pattern.search(text)) for pattern, _ in PATTERNS) == count


def test_every_kind_of_text_is_read() -> None:
    assert list(python_texts('fail(f"{x} is no {y}", "word")  # a')) == [(1, "# a"), (1, "{} is no {}")]
    assert list(python_texts("def test_a_b(): ...\ndef a_b(): ...")) == [(1, "test a b")]
    assert list(shell_texts('# a comment\nfail "is no $x" "word"')) == [(1, "# a comment"), (2, "is no $x")]
    assert list(markdown_texts("a `b c`\n```\nd\n```\ne")) == [(1, "a ``"), (5, "e")]


def class_names(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Return where each class is defined, by name."""
    found: dict[str, list[str]] = {}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(f"{path}:{node.lineno}")
    return found


def test_a_class_name_stands_once(tmp_path: Path) -> None:
    """A word has one meaning, in error messages and search results too."""
    found = class_names(sorted(ROOT.glob("launcher/**/*.py")))
    twice = {name: places for name, places in found.items() if len(places) > 1}
    assert len(found) > 300
    assert not twice, twice
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("class Step: ...\n")
    assert len(class_names(sorted(tmp_path.glob("*.py")))["Step"]) == 2


if __name__ == "__main__":
    only = [str(Path(argument)) for argument in sys.argv[1:]]
    for file in files():
        relative = str(file.relative_to(ROOT))
        if not only or any(relative == prefix or relative.startswith(f"{prefix}/") for prefix in only):
            print(*hits_in(file), sep="\n", end="\n" if hits_in(file) else "")
