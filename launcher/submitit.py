"""`launcher.submitit.Executor`: submitit's executor of Slurm jobs, in the image and environment of a cluster profile.

It is submitit's own SlurmExecutor. What differs: the profile states directives, image, mounts and variables; sbatch is
asked exactly once for each job; Slurm's queue is asked for states, accounting only for what has left the queue.
Only this module and launcher/backends/task.py import submitit (`launcher help submitit`).
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import submitit
    from submitit.core import core
except ImportError as error:
    raise ImportError(
        "launcher.submitit needs submitit, which is not installed: install the launcher with its extra `tasks` "
        "(launcher help install)"
    ) from error

from launcher._util.errors import ConfigError, RequestError, SlurmError
from launcher._util.ownership import is_shared, require_trusted
from launcher._util.shell import LocalShell
from launcher.backends.function_task import FunctionTask, plan_function_task, write_task_files
from launcher.backends.process_environment import SLURM_CLIENT
from launcher.config.load import load_cluster, load_request
from launcher.config.request import Request
from launcher.contract.values import nearest
from launcher.discovery.host import detect_host
from launcher.planning import backend_choice, slurm_options
from launcher.planning.time_limit import limit_seconds
from launcher.scripts.render import directive
from launcher.slurm.control import cancel
from launcher.slurm.queue import Answer, ask_jobs
from launcher.slurm.submit import ARRAY_MARK, submit
from launcher.watch.status import UNPROVEN

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster

__all__ = ["Executor", "FunctionJob"]

_MARK = "launcher-function:"
"""Beginning of the tokens of single jobs."""

_OF_PROFILE = ("partition", "account", "qos")
_OWN = {"wckey": None, "signal_delay_s": 60}
"""Other defaults than submitit's, whose wckey is refused where a cluster has wckeys."""

# Directives of a profile that describe a training node's share, not a site's rules: a function asks for its own.
_OF_TRAINING = frozenset(
    {"gpus-per-node", "gpus", "gres", "gpus-per-task", "cpus-per-task", "cpus-per-gpu", "mem-per-gpu", "segment"}
    | {"comment", "signal"}
)


class Watcher(core.InfoWatcher):  # type: ignore[misc]
    """States of all jobs of this process, from one squeue and at most one sacct for all of them at a time."""

    def __init__(self, delay_s: int = 60) -> None:
        super().__init__(delay_s=delay_s)
        self.tokens: dict[str, str] = {}
        """The token of the submission that each job came from."""

    def update(self) -> None:
        """Ask Slurm about the jobs that have not ended. Where it does not answer, what was known stays."""
        asked = self._registered - self._finished
        if not asked:
            return
        self._num_calls += 1
        answer = ask_jobs(asked, LocalShell())
        self._last_status_check = time.time()
        if answer.unreachable is None:
            self._take(answer)

    def _take(self, answer: Answer) -> None:
        for name, job in answer.jobs.items():
            token = self.tokens.get(name)
            if token is not None and job.belongs_to(token, ()) is False:
                # A controller without its state counts anew, and has given the number to another job.
                self._info_dict[name] = {"JobID": name, "State": "FORGOTTEN", "NodeList": ""}
                self._finished.add(name)
                continue
            self._info_dict[name] = {"JobID": name, "State": job.state.value, "NodeList": job.nodes or ""}
            if job.terminal:
                self._finished.add(name)

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        """Return Slurm's word for the state; UNKNOWN before Slurm has answered, FORGOTTEN where it no longer knows."""
        state: str = self.get_info(job_id, mode=mode).get("State", "UNKNOWN")
        return state

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Return whether the job has ended and does not come back."""
        self.get_info(job_id, mode=mode)
        return job_id in self._finished


class FunctionJob(submitit.SlurmJob):  # type: ignore[misc]
    """A submitted function: `result()`, `exception()`, `done()`, `cancel()` and the rest of submitit's Job."""

    watcher = Watcher()

    def _register_in_watcher(self) -> None:
        # A job of another process, by its number or unpickled: the state of another job is not its own.
        if self.job_id not in self.watcher.tokens and (token := _token_of(self.paths.submission_file)) is not None:
            self.watcher.tokens[self.job_id] = token
        super()._register_in_watcher()

    def cancel(self, check: bool = True) -> None:
        """End the job, unless it has ended or its number belongs to another one meanwhile.

        Raises SlurmError if `check`, also where Slurm does not show whose job it is.
        """
        shell = LocalShell()
        with contextlib.nullcontext() if check else contextlib.suppress(SlurmError):
            token = _token_of(self.paths.submission_file)
            if token is None:
                script = str(self.paths.submission_file)
                raise SlurmError(
                    f"job {self.job_id} was not cancelled: its script, which shows that it is ours, is gone",
                    where=script,
                )
            answer = ask_jobs([self.job_id], shell)
            if answer.unreachable is not None:
                raise SlurmError(f"job {self.job_id} was not cancelled: {answer.unreachable}")
            found = answer.jobs[self.job_id]
            proven = found.belongs_to(token, ())
            if proven is None and not found.terminal:
                raise SlurmError(f"job {self.job_id} was not cancelled: {UNPROVEN}")
            if proven:
                cancel([self.job_id], shell)


class FunctionExecutor(submitit.SlurmExecutor):  # type: ignore[misc]
    """Runs Python functions as Slurm jobs: `submit`, `map_array`, `batch` and the rest of submitit's SlurmExecutor.

    `folder` lies on a file system that the nodes share; what is pickled into it is unpickled here and there. The other
    arguments are options of `launcher submit`, with the same meaning and defaults. Resources are submitit's parameters:
    `executor.update_parameters(time=30, nodes=1, cpus_per_task=4)`.

    Raises RequestError of the kind that fits.
    """

    job_class = FunctionJob
    parameters: dict[str, Any]

    def __init__(
        self,
        folder: str | Path,
        *,
        cluster: str | None = None,
        image: str | None = None,
        runtime: str | None = None,
        mounts: Sequence[str] = (),
        env: Mapping[str, str | None] | Sequence[str] = (),
        python: str | None = None,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        sbatch: Mapping[str, bool | int | str] | None = None,
        max_num_timeout: int = 3,
        max_pickle_size_gb: float = 1.0,
    ) -> None:
        given = {
            "cluster": cluster,
            "image": image,
            "runtime": runtime,
            "mounts": tuple(mounts),
            "env": _environment(env),
            "python": python,
            "partition": partition,
            "account": account,
            "qos": qos,
            "sbatch": dict(sbatch or {}),
        }
        host = detect_host()
        stated = {name: value for name, value in given.items() if value not in (None, (), {})}
        request = load_request(stated, environ=host.environ, directory=host.directory)
        profile = load_cluster(request.cluster or backend_choice.default_cluster(host), host.environ)
        backend_choice.choose_backend("submit", profile, host)
        super().__init__(folder, max_num_timeout=max_num_timeout, max_pickle_size_gb=max_pickle_size_gb)
        _require_trusted(self.folder)
        self.task: FunctionTask = plan_function_task(request, profile, host, self.folder)
        self._environ = host.environ
        self._comments = (profile.directives.get("comment"), request.sbatch.get("comment"))
        slurm_options.comment("", *self._comments)  # refuses one that the launcher cannot add its own to
        self._site = _site(request, profile)
        self._stated: dict[str, Any] = {}
        self.python = self.task.command
        self._written = False
        self.update_parameters()

    def _internal_update_parameters(self, **kwargs: Any) -> None:
        """Take resources; those of the profile are weaker. Raises ConfigError for one that does not exist."""
        known = self._valid_parameters()
        for name, value in kwargs.items():
            if name not in known:
                near = nearest(name, known)
                hint = f"Did you mean {' or '.join(near)}? " if near else ""
                raise ConfigError(
                    f"submitit has no parameter {name!r}",
                    where="update_parameters",
                    hint=f"{hint}It has: {', '.join(sorted(known))}.",
                )
            if isinstance(value, str) and name != "time":
                directive(value)  # refuses what sbatch cannot read in a script
        if kwargs.get("use_srun") is False:
            raise ConfigError("srun starts the function in its environment", where="use_srun", hint="Leave it out.")
        stated = {**self._stated, **kwargs}
        if isinstance(stated.get("time"), str):
            stated["time"] = _minutes(stated["time"])
        before = self.parameters
        self.parameters = {}
        try:
            super()._internal_update_parameters(**_merged(stated, self._site, self.task))
        except BaseException:
            self.parameters = before
            raise
        self._stated = stated

    def _internal_process_submissions(self, delayed_submissions: Sequence[Any]) -> "list[FunctionJob]":
        for each in delayed_submissions:
            self._refuse_requeue(each.function)
        if not self._written:
            self.folder.mkdir(parents=True, exist_ok=True)
            _require_trusted(self.folder)
            write_task_files(self.task)
            self._written = True
        pickles = [self._pickled(each, len(delayed_submissions)) for each in delayed_submissions]
        try:
            jobs = self._submitted(len(pickles))
        except RequestError:
            for path in pickles:
                path.unlink(missing_ok=True)
            raise
        for job, path in zip(jobs, pickles, strict=True):
            job.paths.move_temporary_file(path, "submitted_pickle")
        return jobs

    def _refuse_requeue(self, function: Callable[..., Any]) -> None:
        """Raise ConfigError for a function that is to be requeued from inside an image, which has no scontrol."""
        if self.task.image is not None and hasattr(function, "checkpoint") and self.max_num_timeout:
            raise ConfigError(
                "a function with `checkpoint` is requeued by scontrol from inside its task, and images have none",
                where=type(function).__name__,
                hint="Give max_num_timeout=0, run it without an image, or submit a recipe with keep_going=True.",
            )

    def _pickled(self, delayed: Any, count: int) -> Path:
        """Write the pickle of one submission. Raises RequestError for what cannot be pickled, or is too large."""
        path: Path = self.folder / f"{uuid.uuid4().hex}.pkl"
        delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
        try:
            delayed.dump(path)
        except Exception as error:  # whatever the objects raise
            path.unlink(missing_ok=True)
            raise RequestError(f"the function and its arguments cannot be pickled: {error}") from error
        size_gb = count * path.stat().st_size / (1 << 30)
        if size_gb > self.max_pickle_size_gb:
            path.unlink()
            raise RequestError(
                f"the function and its arguments take {size_gb:.2g} GB, more than max_pickle_size_gb",
                hint="Write large data to files that the nodes share, and pass their paths.",
            )
        return path

    def _submitted(self, count: int) -> "list[FunctionJob]":
        """Submit one batch script: a job for one function, an array for several."""
        uid = uuid.uuid4().hex
        token = f"{ARRAY_MARK if count > 1 else _MARK}{uid}"
        script = self.folder / f".submission_file_{uid}.sh"
        parameters = self.parameters
        of_profile, own = self._comments
        comment = slurm_options.comment(token, of_profile, parameters.get("comment") or own)
        self.parameters = {**parameters, "comment": comment, **({"map_count": count} if count > 1 else {})}
        try:
            script.write_text(self._make_submission_file_text(self._submitit_command_str, uid))
        finally:
            self.parameters = parameters
        names = {*self.task.export, *SLURM_CLIENT}
        environ = {name: self._environ[name] for name in names if name in self._environ}
        try:
            found = submit(script, LocalShell(), token=token, env=environ, rendered=tuple(self._site))
        except RequestError:
            script.unlink()
            raise
        ids = [found.job] if count == 1 else [f"{found.job}_{index}" for index in range(count)]
        for each in ids:
            FunctionJob.watcher.tokens[each] = token
        jobs = [FunctionJob(folder=self.folder, job_id=each, tasks=list(range(self._num_tasks()))) for each in ids]
        jobs[0].paths.move_temporary_file(script, "submission_file", keep_as_symlink=True)
        return jobs


Executor = FunctionExecutor
"""The name that submitit's users look for; inside this project another class has it."""


def _environment(env: Mapping[str, str | None] | Sequence[str]) -> tuple[str, ...]:
    if isinstance(env, Mapping):
        return tuple(name if value is None else f"{name}={value}" for name, value in env.items())
    return tuple(env)


def _site(request: Request, cluster: "Cluster") -> dict[str, bool | int | str]:
    """Return the sbatch options of the profile and of `sbatch`, by long names. Raises ConfigError."""
    slurm_options.merge_options(own={}, ranks_per_node=1, profile={}, user=request.sbatch)  # refuses managed ones
    site = {key: value for key, value in cluster.directives.items() if key not in _OF_TRAINING}
    site |= {key: value for key in _OF_PROFILE if (value := getattr(request, key) or getattr(cluster, key)) is not None}
    if cluster.time_limit is not None:
        site["time"] = cluster.time_limit
    site |= request.sbatch
    site.pop("comment", None)  # the submission's token is added to it
    for value in site.values():
        directive(value)
    return site


def _merged(stated: Mapping[str, Any], site: Mapping[str, bool | int | str], task: FunctionTask) -> dict[str, Any]:
    """Return submitit's parameters: what was stated, then the profile's."""
    names = {name.replace("_", "-") for name, value in stated.items() if value is not None}
    rest = {key: value for key, value in site.items() if key not in names and value is not False}
    merged = {**_OWN, "time": 5, **stated}
    if isinstance(limit := rest.pop("time", None), str | int):
        merged["time"] = _minutes(str(limit))
    additional = {key: _as_sbatch_reads(value) for key, value in rest.items()}
    additional |= {"export": ",".join(task.export) or "NONE", **(stated.get("additional_parameters") or {})}
    merged["additional_parameters"] = additional
    merged["srun_args"] = [*task.srun_args, *(stated.get("srun_args") or ())]
    merged["setup"] = [*task.setup, *(stated.get("setup") or ())]
    kept, *cleaning = task.teardown or [""]  # the step's status, before anything else
    merged["teardown"] = [*([kept] if kept else []), *(stated.get("teardown") or ()), *cleaning]
    return merged


def _as_sbatch_reads(value: bool | int | str) -> bool | int | str:
    """Return a value as it has to stand between single quotes in a script: see `directive`."""
    return value.replace("\\", "\\\\") if isinstance(value, str) else value


def _minutes(text: str) -> int:
    """Return a time limit in whole minutes, as submitit counts. Raises ConfigError."""
    seconds = limit_seconds(text)
    if seconds is None:
        raise ConfigError(f"{text!r} is not a time limit: minutes, H:MM:SS or D-HH:MM:SS", where="time")
    return max(1, -(-seconds // 60))


def _require_trusted(folder: Path) -> None:
    """Raise RequestError for a folder in which another user could put pickles."""
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    if existing != folder:
        return  # it is made for this user alone
    if not folder.is_dir():
        raise RequestError("this is not a directory", where=str(folder))
    require_trusted(folder, shared=is_shared(folder), hint="Choose another folder: what lies there is unpickled.")


def _token_of(script: Path) -> str | None:
    """Return the token in a batch script of an executor; None where there is none."""
    with contextlib.suppress(OSError):  # a folder that was tidied up
        for line in script.read_text().splitlines():
            for mark in (_MARK, ARRAY_MARK):
                if line.startswith("#SBATCH --comment") and mark in line:
                    return mark + line.partition(mark)[2][:32]
    return None
