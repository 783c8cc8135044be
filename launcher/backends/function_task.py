"""A task that runs a Python function in the image and the environment of a cluster profile, for `launcher.submitit`.

submitit makes the batch script; here are the files that its tasks execute, and the words that start them.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from launcher._util.errors import ConfigError
from launcher.config.cluster import Cluster
from launcher.config.request import Request
from launcher.contract.files import write_text
from launcher.contract.frozen import dataclass
from launcher.discovery.container_runtime import choose_runtime
from launcher.discovery.host import HostContext
from launcher.discovery.image import Image, resolve_image
from launcher.planning import container, environment
from launcher.planning.backend import BATCH
from launcher.planning.model import Variable
from launcher.runtimes import BARE, RUNTIMES
from launcher.runtimes.model import Container, ContainerRequest, Mount
from launcher.scripts.render import q, render

_SHIPPED = ("submitit", "cloudpickle", "typing_extensions")
"""What the interpreter of a task has to import besides the function's own modules; all three are pure Python."""

_PACKAGES = "packages"
_ATTEMPT = 0
"""The last part of a container's name: a run has one container for each attempt in a job."""


@dataclass(frozen=True)
class FunctionTask:
    """How a task of a function's job is started. The first five fields are those of a plan that enter.sh needs."""

    run_dir: str
    """The directory of the files that tasks execute, below the folder of the jobs."""
    image: Image | None
    container: Container | None
    python: str
    shared: bool
    environment: tuple[Variable, ...]
    packages: str | None
    """The directory with submitit for an interpreter that is not this one; None where it is."""
    python_version: str

    @property
    def export(self) -> tuple[str, ...]:
        """Return the names of the submitting shell's variables that the job gets."""
        return tuple(sorted(each.name for each in self.environment if each.scope == "inherited"))

    @property
    def setup(self) -> list[str]:
        """Return the lines of the batch script before its step: variables outside the container."""
        return [f"export {q(each.name)}={q(each.value)}" for each in self.environment if each.scope == "host"]

    @property
    def srun_args(self) -> tuple[str, ...]:
        """Return what srun is given: all of the batch script's environment, and the container where srun enters it."""
        return ("--export=ALL", *(self.container.srun_args if self.container else ()))

    @property
    def command(self) -> str:
        """Return the words of bash that stand for the interpreter in the batch script."""
        words = ["bash", f"{self.run_dir}/task.sh"]
        return " ".join([*self._entered("run"), *map(q, words)])

    @property
    def teardown(self) -> list[str]:
        """Return the lines after the step: the unpacked image is removed, and the step's status is the job's."""
        if not self._entered("remove"):
            return []
        each = ["srun", "--ntasks-per-node=1", '--ntasks="$SLURM_JOB_NUM_NODES"', "--overcommit", "--gres=none"]
        # Slurm reads variables of the job as options.
        clear = ["env", *(f"--unset={name}" for name in _OF_TASKS)]
        return ["status=$?", " ".join([*clear, *each, *self._entered("remove")]), 'exit "$status"']

    def _entered(self, action: str) -> list[str]:
        if self.container is None or RUNTIMES[self.container.runtime].enter_template is None:
            return []
        name = f"{q(self.container.label)}-$SLURM_JOB_ID-{_ATTEMPT}"
        return ["bash", q(f"{self.run_dir}/enter.sh"), action, name]


_OF_TASKS = ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_GPUS_PER_NODE")


def plan_function_task(request: Request, cluster: Cluster, host: HostContext, folder: Path) -> FunctionTask:
    """Decide how tasks are started whose jobs lie in `folder`. Raises ConfigError, ImageError, DiskError.

    Each call gets a directory of its own for what tasks execute: jobs that wait keep theirs.
    """
    from launcher._util.shell import LocalShell

    shell = LocalShell()
    runtime = choose_runtime(request, cluster, host, shell, srun=True)
    cluster = cluster.model_copy(update={"runtime": runtime.name})
    wanted = container.wanted_image(request, cluster, BATCH)
    image = resolve_image(wanted, cluster=cluster, host=host, shell=shell) if wanted else None
    if wrong := sorted(set(str(folder)) & set("%\\")):
        # submitit replaces %j and %t in paths, and Slurm reads both characters.
        raise ConfigError(f"{str(folder)!r} contains {wrong[0]!r}, which Slurm does not take literally", where="folder")
    variables = environment.plan_environment(
        profile=environment.of_profile(cluster, container=image is not None),
        inherit=cluster.inherit,
        recipe={},
        user=request.env,
        expand=request.expand_env,
        shell=host.environ,
        image=image.environment if image else None,
    )
    directory = f"{folder}/.task-{host.nonce}"
    python = request.python or cluster.python or ("python3" if image else host.python)
    own = image is None and python == host.python
    return FunctionTask(
        run_dir=directory,
        image=image,
        container=_container(request, cluster, image, str(folder), directory, environment.overrides_image(variables)),
        python=python,
        shared=False,
        environment=variables,
        packages=None if own else str(folder / _PACKAGES),
        python_version="{}.{}".format(*sys.version_info[:2]),
    )


def _container(
    request: Request, cluster: Cluster, image: Image | None, folder: str, directory: str, named: Sequence[str]
) -> Container | None:
    runtime = RUNTIMES[cluster.runtime]
    mounts = container.plan_mounts(request, cluster, runtime, folder)
    if image is None or runtime.container is None:
        return None
    return runtime.container(
        ContainerRequest(
            image=str(image.path),
            label=f"launcher-{image.key}-{hashlib.sha256(directory.encode()).hexdigest()[:6]}",
            mounts=(Mount(folder, folder), *mounts),
            run_dir=directory,
            writable=cluster.container_writable,
            named=(*named, "SUBMITIT_EXECUTOR"),
            scratch=cluster.scratch,
        )
    )


def write_task_files(task: FunctionTask) -> None:
    """Write what tasks execute; the folder of the jobs exists. Raises OSError."""
    directory = Path(task.run_dir)
    directory.mkdir(mode=0o700)
    operations = {
        operation: [each for each in task.environment if each.scope == "task" and each.operation == operation]
        for operation in ("unset", "source", "prepend", "set")
    }
    write_text(directory / "task.sh", render("task.sh.j2", task=task, task_environment=operations))
    runtime = RUNTIMES[task.container.runtime] if task.container else BARE
    if runtime.enter_template:
        write_text(directory / "enter.sh", render("enter.sh.j2", plan=task, runtime=runtime))
    if task.packages and not Path(task.packages).exists():
        _copy_packages(Path(task.packages))


def _copy_packages(directory: Path) -> None:
    """Copy submitit and what it imports. An interrupted copy is never used, and of two at once one counts."""
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    for name in _SHIPPED:
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            continue  # typing_extensions is not everywhere; the installation of submitit brings what it needs
        source = Path(spec.origin)
        if source.name == "__init__.py":
            shutil.copytree(source.parent, partial / name, ignore=shutil.ignore_patterns("__pycache__", "test_*"))
        else:
            shutil.copy(source, partial)
    try:
        os.rename(partial, directory)  # noqa: PTH104
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not directory.is_dir():
            raise
