"""`launcher`: find the command and import its module alone, because start-up time is part of the interface."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "run": "run a recipe here: in this Slurm allocation, or as processes of this machine",
    "submit": "submit a recipe as a batch job",
    "plan": "show what run or submit would do; writes nothing",
    "status": "show runs and how they are doing",
    "logs": "print or follow the log of a rank",
    "cancel": "end runs, or have them save and stop",
    "image": "build, import, list, verify and clean up container images",
    "profiles": "show what a profiler has captured of a run, and where the time went",
    "page": "make one HTML page of a run: how it is doing, plots, what failed, profiles, plan",
    "convert": "convert weights between Hugging Face's format and Megatron's, with a proof of parity",
    "recipes": "list the recipes that ship with the launcher, and Megatron Bridge's own",
    "fetch": "fetch what a run will read of Hugging Face's hub, before it",
    "clusters": "list cluster profiles, show one with its reasons, write a first one from this cluster",
    "doctor": "check the login node, and compute nodes in a job",
}

_EPILOG = """\
exit status: 0 done; 1 the run failed or stopped early; 2 the request was wrong, nothing was started;
3 the outside world failed (Slurm, disk, network)

`launcher COMMAND --help` says more. Completion for bash: eval "$(register-python-argcomplete launcher)"
"""


def console() -> None:
    """Run the console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    if command not in COMMANDS or arguments[0] != command:
        return _without_command(arguments)
    return _guarded(command, arguments[1:])


def _without_command(arguments: Sequence[str]) -> int:
    """Print the help, or what is wrong with a command line that does not begin with a command."""
    parser = _parser()
    if not arguments:
        parser.print_help()
        return 2
    if arguments[0] == "--version":
        from launcher._util.version import __version__

        print(f"megatron-launcher {__version__}")
        return 0
    if arguments[0] in ("-h", "--help"):
        parser.parse_args(arguments[:1])
    print(f"launcher: error: {_what_is_wrong(arguments[0])}", file=sys.stderr)
    return 2


def _what_is_wrong(word: str) -> str:
    import difflib

    if word.startswith("-"):
        return f"unknown option {word}; options follow the command, as in: launcher run --nodes 2 RECIPE"
    if word.endswith(".py"):
        return f"{word!r} is not a command; did you mean: launcher run {word}"
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return f"{word!r} is not a command{guess} (known: {', '.join(COMMANDS)})"


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {command:{width}}  {text}" for command, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="launcher",
        usage="launcher COMMAND ...",
        description=f"Run Megatron training on Slurm clusters in containers.\n\ncommands:\n{commands}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="show program's version number and exit")
    return parser


def command_parser(command: str, into: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    """Return the parser of one command, filled by its module's `add_arguments`."""
    module = import_module(f"launcher.cli.commands.{command}")
    parser = into or argparse.ArgumentParser(
        prog=f"launcher {command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command's arguments; options may stand between RECIPE and KEY=VALUE.

    argparse cannot intermix where a command has actions with parsers of their own, and there nothing needs it.
    """
    nested = any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
    return parser.parse_args(list(arguments)) if nested else parser.parse_intermixed_args(list(arguments))


def _guarded(command: str, arguments: Sequence[str]) -> int:
    """Run a command; turn what the launcher raises into one paragraph and an exit status."""
    from launcher._util.errors import LauncherError

    parser = command_parser(command)
    parsed = parse(parser, arguments)
    try:
        return int(import_module(f"launcher.cli.commands.{command}").main(parsed))
    except LauncherError as error:
        from launcher.cli.output import print_error

        print_error(error, as_json=getattr(parsed, "json", False))
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe has ended (launcher logs RUN | head): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complete() -> None:
    import argcomplete

    parser = argparse.ArgumentParser(prog="launcher", allow_abbrev=False)
    commands = parser.add_subparsers()
    for command, text in COMMANDS.items():
        command_parser(command, commands.add_parser(command, help=text))
    argcomplete.autocomplete(parser)
