"""What a container runtime is to the rest of the launcher, and what a plan holds of a container."""

from collections.abc import Callable

from launcher.contract.frozen import dataclass


@dataclass(frozen=True)
class Mount:
    """A directory of the host inside the container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Container:
    """How tasks get into the image, and what enter.sh and sbatch.sh need for it."""

    runtime: str
    label: str
    """The start of the container's name; the scripts add job and attempt, so that no two runs ever share one."""

    writable: bool
    srun_args: tuple[str, ...]
    """Options of srun, where its plugin is the runtime."""

    mounts: tuple[str, ...]
    """The mounts, the run directory's among them, in the words of the program that enter.sh calls."""

    named: tuple[str, ...]
    """Variables of the job that override the image's."""

    scratch: str | None
    """The directory of the profile for unpacked images, not yet expanded."""


@dataclass(frozen=True)
class ContainerRequest:
    """What a plan wants in a container; the run directory is among the mounts. Fields as in `Container`."""

    image: str
    label: str
    mounts: tuple[Mount, ...]
    run_dir: str
    writable: bool
    named: tuple[str, ...]
    scratch: str | None


@dataclass(frozen=True)
class ContainerRuntime:
    """One way to run a task. All give it the same files, environment and working directory."""

    name: str
    title: str
    """What it is, for people."""

    container: Callable[[ContainerRequest], Container] | None
    """Makes the plan's container; None for the bare machine."""

    needs_srun: bool = False
    """Whether srun itself enters the image, so that ranks cannot be started without Slurm."""

    srun_option: str | None = None
    """An option that `srun --help` lists where the runtime is there."""

    programs: tuple[str, ...] = ()
    """Programs that each node needs on its PATH."""

    nvidia_hooks: bool = False
    """Whether enroot's hooks for NVIDIA read variables of the host's side (NVIDIA_IMEX_CHANNELS)."""

    srun_template: str | None = None
    """Template that sets `container`, srun's options for entering the image."""

    preparation_template: str | None = None
    """Template of what is done before the step; it may replace `step`, and begins srun.log."""

    removal_template: str | None = None
    """Template that removes containers from the nodes after the run; enter.sh does it where that is used."""

    enter_template: str | None = None
    """Template of enter.sh's functions `unpack`, `enter` and `pass_on`; None where enter.sh is not used."""

    inside_template: str | None = None
    """Template of a further command of enter.sh, called inside the container."""

    unmountable: str = ""
    """Characters that its list of mounts cannot express."""

    @property
    def is_container(self) -> bool:
        """Whether tasks run in an image."""
        return self.container is not None

    def why_unavailable(self, srun_help: str, on_path: frozenset[str]) -> str | None:
        """Return what this machine lacks for the runtime; None where nothing is missing.

        `srun_help` is the output of `srun --help`, `on_path` the programs that were found.
        """
        if self.srun_option is not None:
            known = self.srun_option in srun_help
            return None if known else f"srun knows no {self.srun_option}: {self.name} is not loaded"
        missing = sorted({*self.programs} - on_path)
        return f"not on the PATH: {', '.join(missing)}" if missing else None
