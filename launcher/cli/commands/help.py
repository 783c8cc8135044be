"""Print a page of the documentation, as it ships with this version.

In a shell:
  launcher help                    the topics
  launcher help first-run          a page
  launcher help submit             where no page has that name: the options of a command
"""

import argparse
import sys

from launcher.cli.completion import complete
from launcher.cli.output import coloured, info, print_json, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher help`."""
    add = parser.add_argument
    complete(add("topic", metavar="TOPIC", nargs="?", help="a page or a command (default: list the pages)"), "topics")
    add("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Print the list, a page, or the help of a command."""
    from launcher._util.errors import RequestError
    from launcher.api.help import find_topic
    from launcher.cli.main import COMMANDS, command_parser

    if parsed.topic is None:
        return _list(as_json=parsed.json)
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
