"""Helpers that take the blocks of a section apart."""

from typing import Any, TypeVar

from launcher.report.page.content import Block, Facts, Subject
from launcher.rundir import RunDirectory
from tests.support.recorder import Recorder
from tests.watch.run_dirs import BEGIN

LAUNCHED = {"event": "launched", "backend": "local", "attempt": "000", "pid": 1, "host": "elsewhere"}
"""The journal's line of a run that was started on another machine, without Slurm."""


def subject(run: RunDirectory) -> Subject:
    """A run whose page is made where no program answers."""
    return Subject(run, Recorder(), BEGIN + 100)


Kind = TypeVar("Kind", bound=Block)


def of_kind(kind: type[Kind], blocks: Any) -> list[Kind]:
    """The blocks of one kind."""
    return [block for block in blocks if isinstance(block, kind)]


def rows(blocks: Any) -> dict[str, str]:
    """All names and values."""
    return {name: value for block in of_kind(Facts, blocks) for name, value in block.rows}
