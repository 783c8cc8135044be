"""`launcher`: finds the verb, and loads that verb's module alone (start-up time is part of the interface)."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from launcher import __version__

VERBS = {
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

`launcher VERB --help` says more. Completion for bash: eval "$(register-python-argcomplete launcher)"
"""


def console() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    verb = next((argument for argument in arguments if not argument.startswith("-")), None)
    if verb not in VERBS or arguments[0] != verb:
        return _without_verb(arguments)
    return _guarded(verb, arguments[1:])


def _without_verb(arguments: Sequence[str]) -> int:
    """Help, or what is wrong with a command line that does not begin with a verb."""
    parser = _parser()
    if not arguments:
        parser.print_help()
        return 2
    if arguments[0] in ("-h", "--help", "--version"):
        parser.parse_args(arguments[:1])
    print(f"launcher: error: {_what_is_wrong(arguments[0])}", file=sys.stderr)
    return 2


def _what_is_wrong(word: str) -> str:
    import difflib

    if word.startswith("-"):
        return f"unknown option {word}; options follow the verb, as in: launcher run --nodes 2 RECIPE"
    if word.endswith(".py"):
        return f"{word!r} is no verb; did you mean: launcher run {word}"
    near = difflib.get_close_matches(word, VERBS, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return f"{word!r} is no verb{guess} (known: {', '.join(VERBS)})"


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {text}" for verb, text in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="launcher",
        usage="launcher VERB ...",
        description=f"Run Megatron training on Slurm clusters in containers.\n\nverbs:\n{verbs}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"megatron-launcher {__version__}")
    return parser


def verb_parser(verb: str, into: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    """The parser of one verb, as its module's `add_arguments` fills it."""
    module = import_module(f"launcher.cli.commands.{verb}")
    parser = into or argparse.ArgumentParser(
        prog=f"launcher {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Understand a verb's arguments; options may stand between RECIPE and KEY=VALUE.

    argparse cannot intermix where a verb has actions with parsers of their own, and there nothing needs it.
    """
    nested = any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)
    return parser.parse_args(list(arguments)) if nested else parser.parse_intermixed_args(list(arguments))


def _guarded(verb: str, arguments: Sequence[str]) -> int:
    """Run a verb; turn what the launcher raises into one paragraph and an exit status."""
    from launcher._util.errors import LauncherError

    parser = verb_parser(verb)
    parsed = parse(parser, arguments)
    try:
        return int(import_module(f"launcher.cli.commands.{verb}").main(parsed))
    except LauncherError as error:
        from launcher.cli.output import print_error

        print_error(error, as_json=getattr(parsed, "json", False))
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe has gone (launcher logs RUN | head): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complete() -> None:
    import argcomplete

    parser = argparse.ArgumentParser(prog="launcher", allow_abbrev=False)
    verbs = parser.add_subparsers()
    for verb, text in VERBS.items():
        verb_parser(verb, verbs.add_parser(verb, help=text))
    argcomplete.autocomplete(parser)
