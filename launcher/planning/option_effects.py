"""In which mode each option of a run has an effect: one table, for commands, job files and the Python API.

What has no effect is refused with what to do instead, so that nothing that a user gave is dropped in silence.
"""

from collections.abc import Iterable, Mapping
from dataclasses import field
from types import MappingProxyType

from launcher._util.errors import ConfigError
from launcher.contract.frozen import dataclass
from launcher.planning.backend import BackendName, BackendTraits

Mode = BackendName | str
"""A backend's name, or `fetch`: what a run reads of the hub is fetched without a job."""

_ALLOCATED = "the allocation has it from salloc: make another allocation, or submit a job of its own (launcher submit)"
_NO_SLURM = "a local run starts its ranks without Slurm: name a cluster (--cluster)"
_NOT_FETCHED = "leave it out: fetching starts no ranks and no job"


@dataclass(frozen=True)
class Effect:
    """Where an option counts; `instead` says for every other mode what to do."""

    instead: Mapping[Mode, str] = field(default_factory=lambda: MappingProxyType({}))

    def counts_in(self, mode: Mode) -> bool:
        """Return whether the option changes something in this mode."""
        return mode not in self.instead


EVERYWHERE = Effect()
_OF_A_RUN = Effect({"fetch": _NOT_FETCHED})
_OF_A_JOB = Effect({"local": _NO_SLURM, "allocation": _ALLOCATED, "fetch": _NOT_FETCHED})
_OF_SLURM = Effect({"local": _NO_SLURM, "fetch": _NOT_FETCHED})

_OF_BATCH_JOBS = Effect(
    dict.fromkeys(("local", "allocation"), "it is for batch jobs: launcher submit") | {"fetch": _NOT_FETCHED}
)

EFFECTS: Mapping[str, Effect] = {
    **dict.fromkeys(("attempts", "spares", "gates"), _OF_BATCH_JOBS),
    "ship": EVERYWHERE,
    "scale_batch": _OF_A_RUN,
    **dict.fromkeys(("recipe", "assignments", "cluster", "nodes", "gpus_per_node"), EVERYWHERE),
    **dict.fromkeys(("time", "partition", "account", "qos", "sbatch"), _OF_A_JOB),
    **dict.fromkeys(("nodelist", "exclude", "srun_args"), _OF_SLURM),
    **dict.fromkeys(
        ("image", "runtime", "mounts", "default_image", "default_mounts", "env", "expand_env", "python"), EVERYWHERE
    ),
    **dict.fromkeys(("resume", "entrypoint", "init"), EVERYWHERE),
    "run_root": _OF_A_RUN,
    **dict.fromkeys(("mlm_source", "mlm_arguments", "mcore", "probe", "notify", "notify_url"), _OF_A_RUN),
    **dict.fromkeys(
        ("name", "shared", "allow_changes", "allow_checkpoint_load", "keep_going", "verify", "hang_limit_s"), _OF_A_RUN
    ),
    **dict.fromkeys(("nsys", "profiler", "profile_steps", "profile_ranks", "nsys_trace", "nsys_args"), _OF_A_RUN),
    **dict.fromkeys(("gpu_metrics", "nsys_from", "check_config", "check_on"), _OF_A_RUN),
}
"""By key of the request; tests hold it to be complete."""

_TITLES = {
    "local": "a local run",
    "allocation": "an allocation",
    "batch": "a batch job",
    "fetch": "launcher fetch",
}


_OTHER_NAMES = {
    "mounts": "mount",
    "srun_args": "srun-arg",
    "nsys_args": "nsys-arg",
    "allow_changes": "allow-change",
    "hang_limit_s": "hang-limit",
}


def option_of(key: str) -> str:
    """Return the option of the command line that states a key of the request."""
    return f"--{_OTHER_NAMES.get(key, key).replace('_', '-')}"


def effect_of(key: str) -> Effect:
    """Return where a key of the request counts."""
    return EFFECTS.get(key, EVERYWHERE)


def refuse_without_effect(stated: Iterable[str], mode: Mode) -> None:
    """Raise ConfigError for the first stated key that changes nothing in this mode."""
    for key in stated:
        if (instead := effect_of(key).instead.get(mode)) is not None:
            raise ConfigError(
                f"it has no effect in {_TITLES[mode]}",
                where=option_of(key),
                hint=f"{instead[0].upper()}{instead[1:]}.",
            )


def warnings_without_effect(stated: Iterable[str], backend: BackendTraits) -> tuple[str, ...]:
    """Return a sentence for each key of a job file that changes nothing: the file is for other modes, too."""
    return tuple(
        f"{key} of the job file has no effect in {_TITLES[backend.name]}"
        for key in stated
        if not effect_of(key).counts_in(backend.name)
    )
