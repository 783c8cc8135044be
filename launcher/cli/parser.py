"""Parsing of command lines: what is wrong is raised in one sentence, and no usage is printed."""

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import NoReturn

from launcher._util.errors import ConfigError

_CHOICES = re.compile(r"invalid choice: (.+?) \(choose from (.+)\)", re.DOTALL)

_SHORT = {
    "-A": "account",
    "-c": "cpus-per-task",
    "-C": "constraint",
    "-d": "dependency",
    "-D": "chdir",
    "-e": "error",
    "-G": "gpus",
    "-J": "job-name",
    "-L": "licenses",
    "-n": "ntasks",
    "-o": "output",
    "-p": "partition",
    "-w": "nodelist",
    "-x": "exclude",
}
"""Short options of sbatch that no command of the launcher has."""

_OF_SBATCH = """
acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint container contiguous
core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution
error exclusive export export-file extra-node-info get-user-env gid gpu-bind gpu-freq gpus gpus-per-node
gpus-per-socket gpus-per-task gres gres-flags hint hold ignore-pbs input job-name kill-on-invalid-dep
licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill
no-requeue ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode output
overcommit oversubscribe parsable power prefer priority profile propagate reboot requeue reservation
segment signal sockets-per-node spread-job stepmgr switches test-only thread-spec threads-per-core time-min
tmp tres-bind tres-per-task uid use-min-nodes wait wait-all-nodes wckey wrap
"""
"""Long options of sbatch (https://slurm.schedmd.com/sbatch.html), for hints alone: any other is passed on as well."""


class Parser(argparse.ArgumentParser):
    """A parser that raises ConfigError where argparse would print the usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the command line."""
        found = re.match(r"argument ([^:]+): (.*)", message, re.DOTALL)
        where, text = (found[1].partition("/")[0], found[2]) if found else (None, message)
        if chosen := _CHOICES.fullmatch(text):
            text += _near(chosen[1].strip("'"), re.findall("'([^']+)'", chosen[2]))
        raise ConfigError(text, where=where, hint=f"`{self.prog} --help` lists the options.")


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command's arguments; options may stand between RECIPE and KEY=VALUE. Raises ConfigError.

    Where a command has the default `rest`, what stands behind `--` is not parsed: it is another program's.

    argparse cannot intermix where a command has actions with parsers of their own, and there nothing needs it.
    """
    nested = next((each for each in parser._actions if isinstance(each, argparse._SubParsersAction)), None)
    words, rest = list(arguments), None
    if parser.get_default("rest") is not None and "--" in words:
        words, rest = words[: words.index("--")], tuple(words[words.index("--") + 1 :])
    parsed, left = parser.parse_known_args(words) if nested else parser.parse_known_intermixed_args(words)
    if left:
        chosen = nested.choices[getattr(parsed, nested.dest)] if nested else parser
        raise _unknown(chosen, left)
    if rest is not None:
        parsed.rest = rest
    return parsed


def whole_number(text: str) -> int:
    """Return the number that `text` writes in digits. Raises ArgumentTypeError."""
    if not re.fullmatch(r"-?[0-9]{1,15}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def count(text: str) -> int:
    """Return a whole number of at least 1. Raises ArgumentTypeError."""
    if (number := whole_number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return number


def age_s(text: str) -> float:
    """Return an age in seconds: 90m, 12h, 30d, 8w, or 0. Raises ArgumentTypeError."""
    match = re.fullmatch(r"([0-9]{1,6})\s*([smhdw]?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age, such as 12h, 30d, 8w, or 0 for any age")
    return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


def phases(text: str) -> tuple[str, ...]:
    """Return the states of runs in a list with commas. Raises ArgumentTypeError for an unknown one."""
    from launcher.watch.status import Phase

    words, known = tuple(text.lower().split(",")), [phase.value for phase in Phase]
    if (wrong := next((word for word in words if word not in known), None)) is not None:
        raise argparse.ArgumentTypeError(f"{wrong!r} is not a state; there are {', '.join(known)}")
    return words


def seconds(text: str) -> float:
    """Return a duration in seconds, more than 0 and at most a day. Raises ArgumentTypeError."""
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,3})?", text) or not 0 < float(text) <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 86400")
    return float(text)


def _unknown(parser: argparse.ArgumentParser, left: Sequence[str]) -> ConfigError:
    """Return the error of arguments that a command does not take. A value is not repeated: it may be a secret."""
    word = next((each for each in left if each.startswith("-") and each != "--"), None)
    if parser.get_default("rest") is not None and not left[0].startswith("-"):
        return ConfigError(
            f"unexpected argument {left[0]!r}",
            hint=f"The words of another program stand behind --: {parser.prog} ... -- {left[0]} ...",
        )
    if word is None:
        return ConfigError(f"unexpected argument {left[0]!r}", hint=f"`{parser.prog} --help` lists what it takes.")
    name = word.partition("=")[0]
    if name in _SHORT:
        slurm = _SHORT[name]
    elif re.fullmatch("-[A-Za-z].+", name) and name[:2] in _SHORT:
        name, slurm = name[:2], _SHORT[name[:2]]
    else:
        slurm = name[2:] if name[2:] in _OF_SBATCH.split() else ""
    if slurm and (hint := _slurm_hint(parser, slurm)):
        return ConfigError(f"unknown option {name}", hint=hint)
    return ConfigError(
        f"unknown option {name}{_near(name, _options(parser))}", hint=f"`{parser.prog} --help` lists the options."
    )


def _slurm_hint(parser: argparse.ArgumentParser, option: str) -> str | None:
    """Return how an option of sbatch is given; None for a command without a job."""
    from launcher.planning.slurm_options import MANAGED

    known = set(_options(parser))
    if "--sbatch" not in known:
        return None
    if f"--{option}" in known:
        return f"Write --{option}."
    if option in MANAGED:
        return f"Slurm's --{option} is managed by the launcher. Instead: {MANAGED[option]}."
    flag = option in ("contiguous", "exclusive", "hold", "no-requeue", "requeue", "reboot", "spread-job")
    form = f"--sbatch {option}" if flag else f"--sbatch {option}=VALUE"
    if parser.prog == "launcher run":
        return f"An allocation has it from salloc; `launcher submit` takes {form}."
    return f"It is Slurm's: {form}."


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the options that a parser shows in its help."""
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            yield from action.option_strings


def _near(word: str, known: Sequence[str] | Iterator[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
