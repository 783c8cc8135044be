"""`launcher help`: the pages of docs/ in a terminal, and what the launcher's own texts point to."""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher._util.resources import resource
from launcher.api.help import find_topic, topics
from launcher.cli.main import COMMANDS, command_parser, main

ROOT = Path(__file__).resolve().parents[2]
EXCEPT = {"ID", "NAME", "TOPIC", "submit", "rundir"}
"""Placeholders, and a command without a page."""


def test_every_page_is_a_topic_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    pages = {path for path in resource("docs").rglob("*.md") if path.parent.name not in ("docs", "assets")}
    assert {topic.path for topic in topics()} == pages
    assert len({topic.name for topic in topics()}) == len(pages)
    assert main(["help", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["topics"]) == len(pages)


def test_a_page_is_printed_with_links_as_topics(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "long-runs"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# Runs that last")
    assert not re.findall(r"\]\((?!https?:)", out)
    named = set(re.findall(r"launcher help ([\w/-]+)", out))
    assert named and all(find_topic(name) for name in named)


def test_a_page_has_its_folder_as_a_second_name_and_a_command_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_topic("docs/how-to/network.md") == find_topic("how-to/network") == find_topic("network")
    assert find_topic("measurements/network") != find_topic("network")
    assert main(["help", "submit"]) == 0
    assert "usage: launcher submit" in capsys.readouterr().out
    assert main(["help", "doctor"]) == 0
    assert "`launcher doctor --help` lists the options" in capsys.readouterr().err


def test_an_id_of_an_error_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "vanilla_gpt", "--cluster", "local"]) == 2
    (identity,) = re.findall(r"\[([\w.]+)\]$", capsys.readouterr().err, re.MULTILINE)
    assert identity == "discovery.recipe.shipped"
    assert main(["help", identity]) == 0
    assert "is not a recipe that ships with the launcher" in capsys.readouterr().out
    assert main(["help", f"[{identity}]", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["messages"][0]["kind"] == "RecipeError"
    assert main(["help", "discovery.recipe.nothing"]) == 2


def test_an_unknown_topic_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "sweap"]) == 2
    assert "Did you mean: sweeps?" in capsys.readouterr().err
    assert main(["help", "hang"]) == 2
    assert "hangs" in capsys.readouterr().err


def test_texts_of_the_launcher_name_topics_that_exist_and_no_files_that_a_wheel_lacks() -> None:
    named = set[str]()
    for path in (ROOT / "launcher").rglob("*.py"):
        text = path.read_text()
        named |= set(re.findall(r"launcher help ([\w/-]+)", text))
        # The docstring of a command's module is its --help; others are for readers of the code.
        is_command = "commands" in path.parts
        shown = text if is_command else re.sub(r'^\s*(?:"""|#).*$', "", text, flags=re.MULTILINE)
        assert not re.findall(r"(?<![\w/])docs/(?:how-to|reference|tutorial)[\w/-]*\.md", shown), path
    assert named - EXCEPT
    for name in named - EXCEPT:
        assert find_topic(name)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A command, and those below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in dict.fromkeys(action.choices.values()):
                yield from parsers(below)


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_in_help_have_one_layout(command: str) -> None:
    for parser in parsers(command_parser(command)):
        blocks = f"{parser.description or ''}\n\n{parser.epilog or ''}".split("\n\n")
        for block in (block for block in blocks if re.search(r"^ *(?:launcher|salloc) ", block, re.MULTILINE)):
            lines = [line for line in block.splitlines() if re.match(r" *(?:launcher|salloc) ", line)]
            assert all(re.match(r"  \S", line) and len(line) <= 106 for line in lines), lines
            comments = {match.end() for line in lines if (match := re.match(r"  \S.*?   +", line))}
            assert len(comments) <= 1, lines


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_an_example(command: str) -> None:
    text = command_parser(command).format_help()
    assert re.search(rf"^ *launcher {command}\b", text, re.MULTILINE), text[:500]


def test_the_help_of_fetch_leaves_out_what_counts_only_in_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = command_parser("fetch").format_help()
    assert "--env" in text and "--image" in text
    for option in ("--time", "--keep-going", "--nsys", "--sbatch", "--run-root"):
        assert option not in text
    assert main(["fetch", "vanilla_gpt_pretrain", "--time", "10"]) == 2
    assert "it has no effect in launcher fetch" in capsys.readouterr().err
