"""What Slurm is asked for: sbatch's options, and the srun of the ranks."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from launcher._util.errors import ConfigError
from launcher.config.cluster import Cluster
from launcher.planning import environment, node_share, slurm_options, time_limit
from launcher.planning.allocation import AllocationUse
from launcher.planning.inputs import PlanInputs
from launcher.planning.model import AllocationPart, Gate, RankLayout, RendezvousPlan, Spares, Step, Variable
from launcher.planning.profiler.model import ProfilerPlan
from launcher.runtimes.model import Mount

_WAIT_S = 60
"""How long the other tasks may continue after the first has ended, before Slurm ends the step (srun --wait)."""

_CHECK_LIMIT_S = 120
"""How long the check of the nodes of a job with spare ones may take."""


def plan_step(
    inputs: PlanInputs, layout: RankLayout, variables: tuple[Variable, ...], profiler: ProfilerPlan | None
) -> Step:
    """Return the srun of the ranks."""
    cluster = inputs.cluster
    wait_s = profiler.finish_timeout_s if profiler else _WAIT_S
    args = [
        f"--nodes={layout.nodes}",
        f"--ntasks={layout.world_size}",
        f"--ntasks-per-node={layout.ranks_per_node}",
        *([f"--mpi={cluster.mpi}"] if cluster.mpi else []),
        # One dead rank ends the step: without it the others wait for it in a collective until a time-out.
        "--kill-on-bad-exit=1",
        f"--wait={wait_s}",
        "--open-mode=append",
        "--input=none",
        *(["--cpu-bind=none"] if _rank_binds_itself(inputs) else []),
        *cluster.srun_args,
        *inputs.request.srun_args,
    ]
    return Step(tuple(args), wait_s, environment.passed_on(variables), inputs.hosts)


def allocation_part(inputs: PlanInputs, use: AllocationUse | None) -> AllocationPart | None:
    """Return what the step asks of this shell's allocation; None for a run that gets its own job or no Slurm."""
    if use is None:
        return None
    job = inputs.host.job
    return AllocationPart(use.cpus_per_rank, use.gpus_per_node, overlap=job is not None and job.step_id is not None)


def plan_rendezvous(cluster: Cluster) -> RendezvousPlan:
    """Return where the ranks meet, as the profile states it."""
    stated = cluster.rendezvous
    first, last = stated.port_range
    return RendezvousPlan(stated.suffix, stated.interface, stated.command, first, last - first + 1)


def plan_spares(inputs: PlanInputs, layout: RankLayout, mounts: Sequence[Mount], segment: str | None) -> Spares | None:
    """Return the spare nodes that were asked for, in a job with this --segment.

    Raises ConfigError where nodes cannot be chosen freely.
    """
    count, cluster = inputs.request.spares, inputs.cluster
    if count is None or not inputs.backend.own_job:  # an allocation has the nodes that it has
        return None
    if segment not in (None, "1") and layout.nodes > 1:
        raise ConfigError(
            f"the run fills NVLink domains in segments of {segment} nodes, and without one of them it would not",
            where="--spares",
            hint="Leave it out; a lost node leads to another attempt with --keep-going.",
        )
    expected = {
        "device": cluster.device,
        "gpu": cluster.gpu,
        "fabric": cluster.fabric,
        "nics_per_node": cluster.nics_per_node,
        "nvlink_domain_nodes": cluster.nvlink_domain_nodes,
        "scratch": cluster.scratch,
        "directories": [mount.source for mount in mounts],
        "read_only": [mount.source for mount in mounts if mount.read_only],
    }
    return Spares(count, _CHECK_LIMIT_S, json.dumps({**expected, "torch": False}))


def plan_gates(inputs: PlanInputs) -> tuple[Gate, ...]:
    """Return what has to pass before the ranks start, and what is run after them.

    Raises ConfigError for a text that does not say it.
    """
    found = list[Gate]()
    for text in inputs.request.gates if inputs.backend.own_job else ():
        try:
            values = json.loads(text)
            gate = Gate(
                name=str(values.pop("name")),
                command=tuple(map(str, values.pop("command"))),
                tasks_per_node=int(values.pop("tasks_per_node")),
                limit_s=int(values.pop("limit_s")),
                measures=bool(values.pop("measures", True)),
                min_bus_gb_s=None if (least := values.pop("min_bus_gb_s", None)) is None else float(least),
                when="after" if values.pop("when", "before") == "after" else "before",
                srun_args=tuple(map(str, values.pop("srun_args", ()))),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"is not a gate: {error}", where="gates") from None
        if values or not gate.command or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", gate.name):
            raise ConfigError(f"is not a gate: {', '.join(values) or gate.name}", where="gates")
        # `timeout 0` has no limit, and nothing is less than NaN.
        if min(gate.tasks_per_node, gate.limit_s) < 1 or not math.isfinite(gate.min_bus_gb_s or 0):
            raise ConfigError(f"{gate.name}: tasks and seconds are at least 1, GB/s are finite", where="gates")
        if gate.name in {each.name for each in found}:
            raise ConfigError(f"two gates are called {gate.name}, and each has files of its own", where="gates")
        found.append(gate)
    return tuple(found)


def _rank_binds_itself(inputs: PlanInputs) -> bool:
    """Whether Slurm leaves all CPUs of a node to each of its tasks, unless --cpu-bind is given.

    Slurm assigns CPUs without knowing which GPU a rank will have, and a rank cannot use a CPU outside its assignment
    (launcher/job/numa.py).
    """
    cluster = inputs.cluster
    said = any(
        word.startswith(("--cpu-bind", "--cpu_bind")) for word in (*cluster.srun_args, *inputs.request.srun_args)
    )
    return cluster.numa_binding and cluster.device != "cpu" and not said


def token(inputs: PlanInputs, run_dir: str) -> str:
    """Return what identifies this submission among all others."""
    return f"launcher:{Path(run_dir).name}:{inputs.host.nonce}"


def stop_seconds(inputs: PlanInputs) -> int:
    """Return how many seconds before the end of its job the ranks are asked to stop: the user's, or what is needed."""
    wanted = inputs.request.sbatch.get("signal", inputs.cluster.directives.get("signal"))
    own = None if wanted is None or isinstance(wanted, bool) else time_limit.stop_seconds_of_notice(str(wanted))
    return time_limit.stop_seconds(inputs.save_s) if own is None else own


def sbatch_options(
    inputs: PlanInputs,
    layout: RankLayout,
    variables: tuple[Variable, ...],
    name: str,
    run_dir: str,
    segment: int | None = None,
) -> tuple[tuple[str, str | None], ...]:
    """Return sbatch's options in order; None is a flag without a value. Raises ConfigError."""
    request, cluster = inputs.request, inputs.cluster
    own: dict[str, slurm_options.Value] = {
        "job-name": name,
        "output": f"{run_dir}/sbatch.log",
        "open-mode": "append",
        "comment": slurm_options.comment(
            token(inputs, run_dir), cluster.directives.get("comment"), request.sbatch.get("comment")
        ),
        "signal": time_limit.notice(stop_seconds(inputs), request.time or cluster.time_limit),
        # A range, so that a job whose spare node was lost does not wait for another one.
        "nodes": f"{layout.nodes}-{layout.nodes + request.spares}" if request.spares else layout.nodes,
        "ntasks-per-node": layout.ranks_per_node,
    }
    optional = {
        "cpus-per-task": cluster.cpus_per_task or node_share.cpus_per_task(inputs, layout.ranks_per_node),
        "time": request.time or cluster.time_limit,
        "partition": request.partition or cluster.partition,
        "account": request.account or cluster.account,
        "qos": request.qos or cluster.qos,
        "nodelist": request.nodelist,
        "exclude": request.exclude,
        "segment": segment,
    }
    own |= {key: value for key, value in optional.items() if value is not None}
    # Only names: the values travel in Slurm's own record of the job's environment.
    own["export"] = ",".join(variable.name for variable in variables if variable.scope == "inherited")
    profile = {key: value for key, value in cluster.directives.items() if key != "comment"}
    user = {key: value for key, value in request.sbatch.items() if key != "comment"}
    if cluster.device == "cpu":
        # A profile of CPU nodes may extend one that asks for GPUs, and these nodes have none.
        profile = {key: value for key, value in profile.items() if key not in ("gpus-per-node", "gres")}
    return slurm_options.merge_options(own=own, ranks_per_node=layout.ranks_per_node, profile=profile, user=user)
