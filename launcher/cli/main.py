"""`launcher`: find the command and import its module alone, because start-up time is part of the interface."""

import argparse
import errno
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = {
    "run": "run a recipe here: in this Slurm allocation, or as processes of this machine",
    "submit": "submit a recipe as a batch job",
    "plan": "show what run or submit would do; writes nothing",
    "sweep": "run many points of one recipe; how they are doing, their page, the best one",
    "status": "show runs and how they are doing",
    "logs": "print or follow the log of a rank",
    "pull": "copy a run from the host of a cluster profile to this machine",
    "cancel": "end runs, or have them save and stop",
    "exec": "run a command beside a rank of a running run, in its container",
    "stacks": "show what the ranks of a running run are doing: their Python stacks",
    "rm": "remove runs that are over, with all their files",
    "gc": "remove checkpoints of a run by policy, or runs that ended long ago",
    "image": "build, import, list, verify and clean up container images",
    "profiles": "show what a profiler has captured of a run, and where the time went",
    "page": "make one HTML page of a run: how it is doing, plots, what failed, profiles, plan",
    "serve": "show runs in a browser: a list to filter, and pages that follow what goes on",
    "convert": "convert weights between Hugging Face's format and Megatron's, with a proof of parity",
    "data": "prepare training data from text, here or as an array of jobs, and look at what files of ids hold",
    "generate": "continue a prompt with what a run has learned, by Megatron and by transformers side by side",
    "evaluate": "evaluate a run by tasks of lm-evaluation-harness, here or in a job behind it",
    "correlate": "run two trainings, by Megatron-LM or Megatron Bridge, with matched settings, and say if they agree",
    "compare": "compare two runs: loss, time, memory, configuration, versions; a gate for CI",
    "translate": "translate Megatron-LM's arguments into Megatron Bridge's overrides, and back",
    "import-nemo-run": "turn an experiment of NeMo-Run into job files",
    "cloudai": "run CloudAI's System, Test and Scenario files for Megatron Bridge",
    "mcore": "show or choose the Megatron-Core of a checkout of Megatron Bridge",
    "recipes": "list the recipes that ship with the launcher, and Megatron Bridge's own",
    "fetch": "fetch what a run will read of Hugging Face's hub, before it",
    "clusters": "list cluster profiles, show one with its reasons, write a first one from this cluster",
    "init": "set yourself up on a cluster: its profile, your defaults, a check",
    "help": "print a page of the documentation",
    "doctor": "check the login node, and compute nodes in a job",
}

_OF_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)

_LONGEST_WORD = 60

_EPILOG = """\
exit status: 0 done; 1 the run failed or stopped early; 2 the request was wrong, nothing was started;
3 the outside world failed (Slurm, disk, network)

`launcher COMMAND --help` says more, `launcher help` lists pages of documentation.
Completion for bash: eval "$(register-python-argcomplete launcher)"
"""


def console() -> None:
    """Run the console script."""
    # Most of a command's time is spent on imports, whose objects stay: looking for garbage among them is wasted.
    gc.set_threshold(50_000)
    _open_standard_streams()
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; turn what it raises into one paragraph.

    With --json an error is an object on standard output, too, also where the command line cannot be parsed.
    """
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe has ended (launcher logs RUN | head): nothing is wrong.
        _leave_output()
        return 0
    except Exception as error:
        return _report(error, as_json="--json" in arguments)
    return status


def _run(arguments: Sequence[str]) -> int:
    if any(argument not in ("-h", "--help", "--version") for argument in arguments):
        _refuse_arguments(arguments)
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    if command not in COMMANDS or arguments[0] != command:
        return _without_command(arguments)
    from launcher.cli.parser import parse

    parser = command_parser(command)
    try:
        parsed = parse(parser, arguments[1:])
    except SystemExit as end:  # --help has been printed
        return int(end.code or 0)
    return int(import_module(_module_of(command)).main(parsed))


def _refuse_arguments(arguments: Sequence[str]) -> None:
    """Raise ConfigError for an argument that cannot be read, or holds a secret."""
    from launcher._util.errors import ConfigError
    from launcher.contract.variables import secret_in

    for number, argument in enumerate(arguments, 1):
        if any("\ud800" <= sign <= "\udfff" for sign in argument):
            raise ConfigError("contains bytes that are not UTF-8", where=f"argument {number}")
        if (secret := secret_in(argument)) and not secret.startswith("a value of "):
            raise ConfigError(
                f"contains {secret}, which other users of this machine can see",
                where=f"argument {number}",
                hint="Set it in your shell and pass it on by name (--env NAME), or keep it in a file of the program's.",
            )


def _report(error: Exception, *, as_json: bool) -> int:
    """Print what went wrong and return the exit status."""
    from launcher._util.errors import DiskError, LauncherError, explained

    if isinstance(error, LauncherError):
        found: LauncherError = error
    elif isinstance(error, OSError) and error.filename is None and error.errno in _OF_OUTPUT:
        # Files of the launcher have names, and their errors are explained where they are written.
        found = DiskError(f"standard output cannot be written: {(error.strerror or '').lower()}")
        as_json = False
        _leave_output()
    else:
        found = explained(error)
        if os.environ.get("LAUNCHER_TRACEBACK"):
            raise error
    from launcher.cli.output import print_error

    try:
        print_error(found, as_json=as_json)
        sys.stdout.flush()
    except OSError:
        _leave_output()
    return found.exit_status


def _open_standard_streams() -> None:
    """Open what the caller has closed, so that no other file gets the number of a standard stream."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    # A name that is not UTF-8 is shown with escapes.
    sys.stdout = os.fdopen(1, "w", closefd=False) if sys.stdout is None else sys.stdout
    sys.stderr = os.fdopen(2, "w", closefd=False) if sys.stderr is None else sys.stderr
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _leave_output() -> None:
    """Let what is still to be written to standard output go nowhere: the interpreter writes it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _without_command(arguments: Sequence[str]) -> int:
    """Print the help. Raises ConfigError for a command line that does not begin with a command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        _parser().print_help()
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from launcher._util.version import __version__

        print(f"megatron-launcher {__version__}")
        return 0
    from launcher._util.errors import ConfigError

    raise ConfigError(_what_is_wrong(arguments[0]))


def _what_is_wrong(word: str) -> str:
    import difflib

    if word.startswith("-"):
        return f"unknown option {word}; options follow the command, as in: launcher run --nodes 2 RECIPE"
    if word.endswith(".py"):
        return f"{word!r} is not a command; did you mean: launcher run {word}"
    word = word if len(word) <= _LONGEST_WORD else f"{word[:_LONGEST_WORD]}..."
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


def _module_of(command: str) -> str:
    return f"launcher.cli.commands.{command.replace('-', '_')}"


def command_parser(command: str, into: argparse.ArgumentParser | None = None) -> argparse.ArgumentParser:
    """Return the parser of one command, filled by its module's `add_arguments`."""
    from launcher.cli.parser import Parser

    module = import_module(_module_of(command))
    parser = into or Parser(
        prog=f"launcher {command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def _complete() -> None:
    import argcomplete

    parser = argparse.ArgumentParser(prog="launcher", allow_abbrev=False)
    commands = parser.add_subparsers()
    typed = os.environ.get("COMP_LINE", "").split()
    for command, text in COMMANDS.items():
        into = commands.add_parser(command, help=text)
        if command in typed:  # only what was typed is completed: the modules of the others are not loaded
            command_parser(command, into)
    argcomplete.autocomplete(parser)
