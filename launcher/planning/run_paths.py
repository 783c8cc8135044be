"""Where a run lies, and what it is called."""

import re
from pathlib import Path

from launcher._util.errors import SpecError
from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.discovery.files import expanded
from launcher.discovery.host import HostContext
from launcher.discovery.recipe import BridgeRecipe, Recipe
from launcher.planning.inputs import PlanInputs


def name_of(recipe: Recipe) -> str:
    """A run's name from its recipe's: what cannot stand in a name becomes `-`."""
    text = recipe.name if isinstance(recipe, BridgeRecipe) else recipe.path.stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("-._")[:64] or "run"


def run_root(request: Request, cluster: Cluster, host: HostContext) -> Path:
    """The directory of all runs; `~` and `$NAME` by the submitting shell's values: the plan says what it means."""
    return host.directory / expanded(request.run_root or cluster.run_root or "runs", host.environ)


def run_dir(inputs: PlanInputs, name: str) -> str:
    """The directory of a new run. Raises SpecError for one that Slurm could not write its log to."""
    path = str(run_root(inputs.request, inputs.cluster, inputs.host) / name / inputs.host.run_id)
    wrong = sorted({sign for sign in path if ord(sign) < 32 or ord(sign) == 127 or sign in "%\\"})
    if wrong:
        raise SpecError(
            f"the run directory {path!r} holds {', '.join(map(repr, wrong))}, which Slurm reads as something else",
            where="--run-root",
        )
    return path
