"""Print a page of the documentation, as it ships with this version.

In a shell:
  launcher help                           the topics
  launcher help first-day                 a page
  launcher help rundir.finding.find_run   what an error with this id may say, and what to do
  launcher help submit                    where no page has that name: the options of a command
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launcher.cli.completion import complete
from launcher.cli.output import coloured, info, print_json, say

if TYPE_CHECKING:
    from launcher.api.help import Explained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher help`."""
    add = parser.add_argument
    complete(add("topic", metavar="TOPIC", nargs="?", help="a page or a command (default: list the pages)"), "topics")
    add("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Print the list, a page, or the help of a command."""
    from launcher._util.errors import RequestError
    from launcher.api.help import find_messages, find_topic
    from launcher.cli.main import COMMANDS, command_parser

    if parsed.topic is None:
        return _list(as_json=parsed.json)
    if "." in parsed.topic and (explained := find_messages(parsed.topic)):
        return _explain(explained, as_json=parsed.json)
    try:
        topic = find_topic(parsed.topic)
    except RequestError:
        if parsed.topic not in COMMANDS or parsed.json:
            raise
        command_parser(parsed.topic).print_help()
        return 0
    if parsed.json:
        print_json({"version": 1, "topic": topic.name, "title": topic.title, "path": str(topic.path)})
        return 0
    say(topic.text.rstrip())
    if topic.name in COMMANDS:
        info(f"\n`launcher {topic.name} --help` lists the options of the command.")
    return 0


def _explain(found: "Sequence[Explained]", *, as_json: bool) -> int:
    """Print what an error with an id may say, and what to do."""
    if as_json:
        rows = [{"kind": one.kind, "message": one.message, "todo": one.todo} for one in found]
        print_json({"version": 1, "id": found[0].id, "messages": rows})
        return 0
    for one in found:
        say(f"{coloured(one.message, 'bold', sys.stdout)} ({one.kind})")
        if one.todo:
            say(f"  {one.todo}")
    info("`...` stands for what varies. `launcher help troubleshooting` goes by symptom.")
    return 0


def _list(*, as_json: bool) -> int:
    from launcher.api.help import topics

    found = topics()
    if as_json:
        rows = [{"topic": one.name, "section": one.section, "title": one.title} for one in found]
        print_json({"version": 1, "topics": rows})
        return 0
    width = max(len(one.name) for one in found)
    section = None
    for one in found:
        if one.section != section:
            section = one.section
            say(coloured(section, "bold", sys.stdout))
        say(f"  {one.name:{width}}  {one.title}")
    info("`launcher help TOPIC` prints one; `launcher COMMAND --help` the options of a command.")
    return 0
