"""The documents name what is there."""

import re
import shlex
from pathlib import Path

import pytest

from launcher.cli.main import VERBS, parse, verb_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_readme_has_every_verb() -> None:
    table = set(re.findall(r"^\| `launcher (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert table == set(VERBS)


def commands() -> list[str]:
    """Calls of `launcher` in code blocks, continued lines put together."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text().replace("\\\n", " "), re.MULTILINE | re.DOTALL):
            # Where a block shows prompts, the other lines are output.
            prompt = "$ " if "$ " in block else ""
            found += [line.removeprefix("$ ") for line in block.splitlines() if line.startswith(f"{prompt}launcher ")]
    return found


@pytest.mark.parametrize("command", commands())
def test_commands_in_the_documents_are_understood(command: str) -> None:
    _, verb, *arguments = shlex.split(command, comments=True)
    parsed = parse(verb_parser(verb), arguments)
    assert vars(parsed)


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"`?make (\w+)", " ".join(page.read_text() for page in PAGES))))
)
def test_make_targets_in_the_documents_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
