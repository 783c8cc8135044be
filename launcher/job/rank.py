"""Who this process is among the ranks of a job: read from the environment, with the standard library alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..contract.paths import AttemptPaths, RunPaths
from ..contract.variables import RANK_VARIABLES, RUN_VARIABLES
from .errors import UserError

NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK")
NAMES = (*RANK_VARIABLES, *RUN_VARIABLES)
"""Variables that make a process a rank. They are set by step.sh; no recipe and no user overrides them."""

HINT = "ranks are started by the launcher (step.sh sets these variables); to try a recipe here, use `launcher run`"


@dataclass(frozen=True)
class Rank:
    """One process of a job; `attempt` is the name of the attempt's directory ("000")."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    node_rank: int
    master: str
    run_dir: Path
    attempt: str

    @property
    def run_paths(self) -> RunPaths:
        """The paths of the run; relative paths of recipes start at its `code`."""
        return RunPaths(self.run_dir)

    @property
    def paths(self) -> AttemptPaths:
        """The paths of this attempt's logs and records."""
        return self.run_paths.attempt_paths(self.attempt)


def read_rank(environment: Mapping[str, str]) -> Rank:
    """Return the rank that `environment` describes.

    Raises UserError, one sentence, for a variable that is missing, not a number, or contradicts another one.
    """
    missing = [name for name in NAMES if not environment.get(name)]
    if missing:
        raise UserError(f"the rank environment lacks {', '.join(missing)}", hint=HINT)
    numbers = {name: _number(name, environment[name]) for name in (*NUMBERS, "MASTER_PORT")}
    _below(numbers, "RANK", "WORLD_SIZE")
    _below(numbers, "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not 0 < numbers["MASTER_PORT"] < 65536:
        raise UserError(f"MASTER_PORT={numbers['MASTER_PORT']} is not a port (1 to 65535)", hint=HINT)
    attempt = environment["LAUNCHER_ATTEMPT"]
    if not re.fullmatch(r"\d{3,}", attempt):
        raise UserError(f"LAUNCHER_ATTEMPT={attempt!r} is not the name of an attempt, like 000", hint=HINT)
    run_dir = Path(environment["LAUNCHER_RUN_DIR"])
    if not run_dir.is_absolute() or not run_dir.is_dir():
        raise UserError(
            f"LAUNCHER_RUN_DIR={str(run_dir)!r} is not the absolute path of a directory seen here", hint=HINT
        )
    return Rank(
        rank=numbers["RANK"],
        local_rank=numbers["LOCAL_RANK"],
        world_size=numbers["WORLD_SIZE"],
        local_world_size=numbers["LOCAL_WORLD_SIZE"],
        node_rank=numbers["NODE_RANK"],
        master=f"{environment['MASTER_ADDR']}:{numbers['MASTER_PORT']}",
        run_dir=run_dir,
        attempt=attempt,
    )


def _number(name: str, text: str) -> int:
    # int() would take "1_0", " 1" and digits of other scripts, which nothing downstream agrees about.
    if not re.fullmatch(r"[0-9]+", text):
        raise UserError(f"{name}={text!r} is not a decimal number", hint=HINT)
    return int(text)


def _below(numbers: dict[str, int], index: str, size: str) -> None:
    if numbers[index] >= numbers[size]:
        raise UserError(f"{index}={numbers[index]} is not below {size}={numbers[size]}", hint=HINT)
