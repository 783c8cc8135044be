"""The directory and the name of a run."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from launcher._util.errors import ConfigError
from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.discovery.files import expanded
from launcher.discovery.host import HostContext
from launcher.planning.backend_choice import is_elsewhere

if TYPE_CHECKING:  # commands that only look for runs need neither
    from launcher.discovery.recipe import Recipe
    from launcher.planning.inputs import PlanInputs


def name_of(recipe: "Recipe") -> str:
    """Return a run's name from its recipe's; other characters become `-`."""
    from launcher.discovery.recipe import MegatronScript, RecipeFile

    text = recipe.path.stem if isinstance(recipe, RecipeFile) else recipe.name.removesuffix(".py")
    if isinstance(recipe, MegatronScript):
        text = f"mlm-{text}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("-._")[:64] or "run"


def run_root(request: Request, cluster: Cluster, host: HostContext) -> Path:
    """Return the directory of all runs; `~` and `$NAME` are expanded with the submitting shell's values.

    Where this machine reaches the cluster by ssh, the profile names a directory there, and here are copies of runs.
    """
    of_profile = None if is_elsewhere(cluster, host) else cluster.run_root
    return host.directory / expanded(request.run_root or of_profile or "runs", host.environ)


def run_dir(inputs: "PlanInputs", name: str) -> str:
    """Return the directory of a new run. Raises ConfigError for a path that Slurm could not write its log to."""
    path = str(run_root(inputs.request, inputs.cluster, inputs.host) / name / inputs.host.run_id)
    wrong = sorted({sign for sign in path if ord(sign) < 32 or ord(sign) == 127 or sign in "%\\"})
    if wrong:
        raise ConfigError(
            f"the run directory {path!r} contains {', '.join(map(repr, wrong))}, which Slurm does not take literally",
            where="--run-root",
        )
    return path
