"""Show runs in a browser: a list to filter, and the page of each run, which follow what goes on.

In a shell:
  launcher serve
  launcher serve --port 8765

It prints the address; Ctrl-C ends it. `ssh -L 8765:127.0.0.1:8765 LOGIN` on your own machine leads to that port.

It only reads, and only this machine can reach it. The address holds a token: anyone who has it can read the runs as
long as the server runs. Nothing is read while no page is open.
"""

import argparse
import contextlib

from launcher.cli.arguments import add_run_root
from launcher.cli.output import info, print_json, warn


def _port(text: str) -> int:
    """Return a port. Raises ArgumentTypeError."""
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, a number up to 65535")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher serve`."""
    add = parser.add_argument
    add("--port", type=_port, default=0, metavar="PORT", help="port to listen on (default: one that is free)")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: %(default)s)")
    add("--allow-remote", action="store_true", help="allow an address that other machines reach, without encryption")
    add("--name", action="append", default=[], metavar="NAME", help="a further name under which browsers reach it")
    add("--all", action="store_true", help="show the runs below all run roots that you have used")
    add("--json", action="store_true", help="print one JSON object when the server is ready")
    add_run_root(parser)


def main(parsed: argparse.Namespace) -> int:
    """Serve until the process is ended."""
    from launcher.api.serve import make_server

    server = make_server(
        run_root=parsed.run_root,
        everywhere=parsed.all,
        host=parsed.host,
        port=parsed.port,
        allow_remote=parsed.allow_remote,
        names=parsed.name,
    )
    with server:
        if parsed.allow_remote:
            warn("other machines can reach this server, and what it sends is not encrypted")
        if parsed.json:
            print_json({"version": 1, "url": server.url, "port": server.port})
        else:
            info(f"{server.url}\nThe address holds a token: do not pass it on. Ctrl-C ends the server.")
        with contextlib.suppress(KeyboardInterrupt):  # that is how it is ended
            server.serve_forever()
    return 0
