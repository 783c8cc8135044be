"""What a plan is made from: values alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.discovery.host import HostContext
from launcher.discovery.image import Image
from launcher.discovery.recipe import Recipe
from launcher.discovery.recipe_index import IndexMatch
from launcher.discovery.training_files import TrainingFiles
from launcher.planning.backend import BackendTraits
from launcher.planning.overrides import Override
from launcher.planning.profiler.model import ProfilerContext


@dataclass(frozen=True)
class PlanInputs:
    """Everything that a plan is made from."""

    request: Request
    cluster: Cluster
    host: HostContext
    backend: BackendTraits
    recipe: Recipe
    arguments: dict[str, str]
    overrides: tuple[Override, ...]
    code: tuple[tuple[str, str], ...]
    submission: int = 0
    run_dir: str | None = None
    """Of a resumed run; a new one gets its own."""
    recipe_env: Mapping[str, str] | None = None
    """The recipe's env_vars, where it was run to check the configuration, or as the index has them. Set by step.sh,
    they spare each rank the second start that it would need to make them count."""
    recipe_values: Mapping[str, Any] = field(default_factory=dict)
    """Values of the checked configuration by key (`model.tensor_model_parallel_size`), or those that the index has of a
    Bridge recipe; else empty."""
    index_match: IndexMatch | None = None
    """What the index says of a Bridge recipe; None for other recipes, and where the configuration was checked."""
    resolved: Mapping[str, Any] | None = None
    """All that the check told of the configuration (launcher/job/config/check.py, resolved); None without one."""
    files: TrainingFiles = field(default=TrainingFiles())
    """What is there of the files that the configuration names; nothing where it was not checked."""
    profiling: ProfilerContext = field(default=ProfilerContext())
    """What is known of the place where a profiler is to work."""
    use_viztracer: bool | None = None
    """What `profiling.use_viztracer` says, a key that is not Bridge's."""
    image: Image | None = None
    """The image that container.wanted_image names, looked at; None on the bare machine."""
