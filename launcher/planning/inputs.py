"""What a plan is made from: values alone, among them what is known of the configuration that the recipe makes."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.contract.disk_space import DiskSpace
from launcher.contract.frozen import dataclass
from launcher.contract.values import Override
from launcher.discovery.container_runtime import RuntimeChoice
from launcher.discovery.host import HostContext
from launcher.discovery.image import Image
from launcher.discovery.megatron_core import MegatronCore
from launcher.discovery.recipe import Recipe
from launcher.discovery.recipe_index import IndexMatch
from launcher.discovery.shipped_code import ShippedCode
from launcher.discovery.training_files import TrainingFiles
from launcher.planning.backend import BackendTraits
from launcher.planning.profiler.model import ProfilerContext
from launcher.slurm.allocation import Allocation
from launcher.slurm.nodes import NodeKind

_OF_TRAIN = ("global_batch_size", "micro_batch_size", "train_iters")
"""Of the values that a check resolves, those of the section `train`; the others belong to `model`."""


@dataclass(frozen=True)
class FromOverrides:
    """The recipe was not run and no index describes it: only what the user stated is known."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """Values by key (`model.tensor_model_parallel_size`) that keyword arguments of the recipe set."""

    files: TrainingFiles = field(default=TrainingFiles())
    """What exists of the files that the arguments name."""

    @property
    def env(self) -> None:
        """The recipe's env_vars: unknown."""
        return None

    @property
    def recipe_is_known(self) -> bool:
        """Whether it is known what the recipe decides."""
        return False


@dataclass(frozen=True)
class FromIndex:
    """The index of Megatron Bridge's recipes describes the recipe. Overrides are stronger than all of this."""

    match: IndexMatch
    values: Mapping[str, Any] = field(default_factory=dict)
    """The recipe's values by key, with those that its keyword arguments set, without what an override replaces."""

    env: Mapping[str, str] | None = None
    """The recipe's env_vars; None where the index does not have them. Set by step.sh, they spare each rank the second
    start that it would need for them to take effect."""

    files: TrainingFiles = field(default=TrainingFiles())
    """What exists of the files that the arguments name."""

    @property
    def recipe_is_known(self) -> bool:
        """Whether it is known what the recipe decides: the index may cover only its name, or be of another release."""
        return self.match.recipe is not None and self.match.recipe.not_run is None


@dataclass(frozen=True)
class FromCheck:
    """The recipe was run and its configuration validated (launcher/job/config/check.py, `resolved`)."""

    resolved: Mapping[str, Any]
    files: TrainingFiles = field(default=TrainingFiles())
    """What exists of the files that the configuration names."""

    @property
    def values(self) -> Mapping[str, Any]:
        """The sizes that a plan reads, by key."""
        return {
            f"{'train' if name in _OF_TRAIN else 'model'}.{name}": value
            for name, value in self.resolved.items()
            if not isinstance(value, dict)
        }

    @property
    def env(self) -> Mapping[str, str]:
        """The recipe's env_vars."""
        return self.resolved.get("env_vars") or {}

    @property
    def recipe_is_known(self) -> bool:
        """Whether it is known what the recipe decides."""
        return True


@dataclass(frozen=True)
class FromArguments:
    """A command line of Megatron-LM decides everything, its defaults included."""

    values: Mapping[str, Any]
    """What it decides, by Bridge's keys."""
    files: TrainingFiles = field(default=TrainingFiles())
    """What exists of the files that the arguments name."""

    @property
    def env(self) -> Mapping[str, str]:
        """Variables that Megatron-LM asserts before Blackwell: one connection for tensor and context parallelism.

        Source: megatron/training/arguments.py, validate_args. FSDP asserts the opposite.
        """
        split = any((self.values.get(f"model.{name}_parallel_size") or 1) > 1 for name in ("tensor_model", "context"))
        fsdp = self.values.get("ddp.use_megatron_fsdp") or self.values.get("dist.use_torch_fsdp2")
        return {"CUDA_DEVICE_MAX_CONNECTIONS": "1"} if split and not fsdp else {}

    @property
    def recipe_is_known(self) -> bool:
        """Whether it is known what the training decides."""
        return True


ConfigKnowledge = FromOverrides | FromIndex | FromCheck | FromArguments
"""What is known of the configuration that the recipe makes, besides the user's overrides."""


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
    knowledge: ConfigKnowledge = field(default=FromOverrides())
    shipped: ShippedCode = field(default=ShippedCode(()))
    """The user's own files among those of `code`, and the state of their project."""
    submission: int = 0
    run_dir: str | None = None
    """The directory of a resumed run; a new one gets its own."""
    previous: Mapping[str, Any] | None = None
    """plan.json of a resumed run."""
    code_digest: str | None = None
    """Of the files of `code` that are the user's own."""
    bridge: str | None = None
    """The release of Megatron Bridge that the job finds; None where it is unknown."""
    accumulation_kernel: bool | None = None
    """Whether the job's interpreter finds the kernel of gradient accumulation fusion; None where it is unknown."""
    recipe_text: str | None = None
    """How the user named the recipe of a resumed run, which is now a snapshot in the run directory."""
    profiling: ProfilerContext = field(default=ProfilerContext())
    """What is known of the place where a profiler is to work."""
    use_viztracer: bool | None = None
    """The value of `profiling.use_viztracer`, a key that is not Bridge's."""
    space: DiskSpace | None = None
    """The space in the file system of the checkpoints; None where it cannot be seen from here."""
    save_s: float | None = None
    """How long the longest save of earlier attempts took; None where none was measured."""
    runtime: RuntimeChoice | None = None
    """How the runtime was chosen; None where nothing was looked at."""
    mcore: MegatronCore | None = None
    """The Megatron-Core of --mcore, which the run imports in place of the image's."""
    image: Image | None = None
    """The image that container.wanted_image names, inspected; None on the bare machine."""
    allocation: Allocation | None = None
    """The allocation that this shell is in; None for a run elsewhere."""
    hosts: tuple[str, ...] = ()
    """The nodes of that allocation to run on; empty where its first ones are taken."""
    node_kinds: tuple[NodeKind, ...] = ()
    """The kinds of nodes in a batch job's partition; empty where Slurm was not asked or did not answer."""
    renamed: tuple[str, ...] = ()
    """A note for each override of another release of Megatron Bridge that was renamed."""
    added_keys: tuple[str, ...] = ()
    """Keys that `+` adds: only the recipe, or a plug-in of its, can have them."""
    without_effect: tuple[str, ...] = ()
    """Warnings of what a job file states for other modes."""
