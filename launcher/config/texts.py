"""The form of texts in requests and profiles."""

import re

from launcher.contract.variables import secret_in, secret_of_assignment

_TIME = re.compile(r"[0-9]+(?:-[0-9]+(?::[0-9]+){0,2})?|[0-9]+(?::[0-9]+){1,2}|UNLIMITED|infinite", re.ASCII)
LONGEST = 64 << 10
"""Characters of one value: the kernel takes 128 KiB for one argument of a program."""


def plain(text: str) -> str:
    """Return a text that a program can be given. Raises ValueError for any other."""
    if "\0" in text:
        raise ValueError("contains a NUL byte, which no path, argument or variable can hold")
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError("contains bytes that are not UTF-8")
    if len(text) > LONGEST:
        raise ValueError(f"has {len(text)} characters; at most {LONGEST} can be given")
    if secret := secret_in(text):
        name = secret.rpartition(" ")[2] if secret.startswith("a value of ") else "NAME"
        raise ValueError(
            f"contains {secret}, which looks like a secret: it would be written into a script. "
            f"Set it in your shell and pass it on by name: --env {name}"
        )
    return text


def without_secret(text: str) -> str:
    """Return a KEY=VALUE. Raises ValueError, without the value, for one that looks like a secret."""
    if key := secret_of_assignment(text):
        name = key.rpartition(".")[2].upper()
        raise ValueError(
            f"{key} looks like a secret: its value would be written into the plan of the run. "
            f"Set it in your shell and pass it on by name: --env {name}"
        )
    return text


def arguments_without_secret(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return arguments of a program, `--KEY=VALUE` or `--KEY VALUE`. Raises ValueError as `without_secret`."""
    for word, following in zip(words, (*words[1:], ""), strict=True):
        if word.startswith("--"):
            option, given, value = word.removeprefix("--").partition("=")
            without_secret(f"{option.replace('-', '_')}={value if given or following.startswith('--') else following}")
    return words


def slurm_time(text: str) -> str:
    """Return a time limit as Slurm writes it: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS.

    Raises ValueError for any other text.
    """
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text!r} is not a time limit as Slurm writes it: minutes, MM:SS, HH:MM:SS or D-HH:MM:SS")
    _, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    # The first part of MM:SS and of HH:MM:SS may be any number; after days it is an hour of a day.
    limits = [24, 60, 60][: len(parts)] if dash else [None, 60, 60][: len(parts)]
    for part, limit in zip(parts, limits, strict=True):
        if limit is not None and int(part) >= limit:
            raise ValueError(f"{text!r} is not a time limit: {part} is not below {limit}")
    if len(text) > 20:
        raise ValueError(f"{text[:20]}... is not a time limit: it has {len(text)} characters")
    return text
