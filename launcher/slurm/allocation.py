"""The allocation that this shell is in, as Slurm's controller describes it: what each node really gives the job.

The variables that salloc sets repeat what was asked for, in as many forms as there are options; only the controller
knows what was given.
"""

import re
from collections.abc import Callable, Mapping, Sequence

from launcher._util.errors import PrerequisiteError, SlurmError
from launcher._util.shell import Shell
from launcher.contract.frozen import dataclass
from launcher.slurm.ask import answer, ask, first_error
from launcher.slurm.control import hostnames
from launcher.slurm.info import parse_gpus

_ALIVE = ("RUNNING", "CONFIGURING", "SUSPENDED")


@dataclass(frozen=True)
class AllocatedNode:
    """One node of an allocation: the job's part, and the whole."""

    name: str
    cpus: int
    """The number of CPUs (hardware threads where Slurm counts those) that the job has."""
    gpus: int
    """The number of GPUs that the job has; 0 also where Slurm does not count GPUs."""
    gpu_type: str | None = None
    node_cpus: int | None = None
    """The number of CPUs that jobs may use on this node; None where that is not known."""
    node_gpus: int = 0
    """The number of GPUs that Slurm counts on this node."""
    threads_per_core: int = 1


@dataclass(frozen=True)
class Allocation:
    """A job of Slurm in which a shell runs, with its nodes in Slurm's order."""

    job_id: str
    nodes: tuple[AllocatedNode, ...]
    tasks_per_node: int | None = None
    """The value of --ntasks-per-node; None where it was not given."""
    asked_gpus_per_node: int | None = None
    """The number of GPUs on each node that was asked for, None if none was; with --exclusive more are given."""
    components: int = 1
    """The number of jobs that a heterogeneous job consists of; 1 for any other."""

    @property
    def counts_gpus(self) -> bool:
        """Return whether Slurm counts GPUs on these nodes."""
        return any(node.node_gpus or node.gpus for node in self.nodes)


def read_allocation(job_id: str, shell: Shell) -> Allocation:
    """Ask the controller about the job and its nodes, once each.

    Raises PrerequisiteError where the job has ended, SlurmError, SlurmUnavailableError.
    """
    shown = ask(["scontrol", "--details", "show", "job", job_id], shell)
    if shown.status != 0 and "nvalid job id" in shown.stderr:
        raise _ended(job_id, "Slurm does not know it any more")
    if shown.status != 0:
        raise SlurmError(f"scontrol: {first_error(shown)}")
    nodelist = _fields(_without_free_text(_own(job_id, _parts(shown.stdout)))).get("NodeList", "")
    nodes = answer(["scontrol", "show", "node", nodelist], shell) if nodelist not in ("", "(null)") else ""
    return parse_allocation(job_id, shown.stdout, nodes, lambda names: hostnames(names, shell))


def parse_allocation(job_id: str, job: str, nodes: str, expand: Callable[[str], tuple[str, ...]]) -> Allocation:
    """Return the allocation in the answers of `scontrol --details show job` and `scontrol show node`.

    `expand` returns the names in a list of nodes. Raises PrerequisiteError where the job does not run.
    """
    parts = _parts(job)
    own = _own(job_id, parts)
    fields = _fields(_without_free_text(own))
    state = fields.get("JobState", "unknown")
    if state not in _ALIVE:
        raise _ended(job_id, f"it is {state}")
    whole = {name: _fields(text) for text in re.split(r"(?m)^(?=NodeName=)", nodes) if (name := _name(text))}
    groups = _groups(own)
    found = [_node(name, group, whole.get(name, {})) for group in groups for name in expand(group["Nodes"])]
    if not found:  # a release that does not list the nodes one by one
        names = expand(fields["NodeList"]) if fields.get("NodeList", "(null)") != "(null)" else ()
        found = [_node(name, _equal_share(fields, len(names)), whole.get(name, {})) for name in names]
    if not found:
        raise _ended(job_id, "it has no nodes")
    order = {name: place for place, name in enumerate(expand(fields["NodeList"]))} if "NodeList" in fields else {}
    per_node = fields.get("NtasksPerN:B:S:C", "").partition(":")[0]
    tasks_per_node = int(per_node) if per_node.isdigit() and int(per_node) > 0 else None
    return Allocation(
        job_id,
        tuple(sorted(found, key=lambda node: order.get(node.name, len(order)))),
        tasks_per_node,
        _asked_gpus(fields, len(found), tasks_per_node),
        max(1, sum("HetJobId=" in part.partition("\n")[0] for part in parts)),
    )


def _ended(job_id: str, why: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"the allocation {job_id} of this shell has ended: {why}",
        hint="Leave this shell (exit), and make another allocation with salloc.",
    )


def usable_cpus(fields: Mapping[str, str]) -> int | None:
    """Return the CPUs of a node that jobs may use, from the fields of `scontrol show node`; None if it does not say."""
    if (effective := fields.get("CPUEfctv", "")).isdigit():  # since Slurm 22.05
        return int(effective)
    total, reserved = fields.get("CPUTot", ""), fields.get("CoreSpecCount", "0")
    if not total.isdigit():
        return None
    threads = int(fields["ThreadsPerCore"]) if fields.get("ThreadsPerCore", "").isdigit() else 1
    return int(total) - (int(reserved) if reserved.isdigit() else 0) * threads


def _parts(job: str) -> list[str]:
    """Return the jobs in an answer, of which a heterogeneous job and an array have several."""
    return [part for part in re.split(r"(?m)^(?=JobId=)", job) if part.strip()]


def _own(job_id: str, parts: Sequence[str]) -> str:
    """Return the part about this job."""
    return next((part for part in parts if re.match(rf"JobId={re.escape(job_id)}\s", part)), parts[0] if parts else "")


def _name(text: str) -> str | None:
    match = re.match(r"NodeName=(\S+)", text)
    return match[1] if match else None


def _without_free_text(job: str) -> str:
    """Return the lines of a job that hold no text of its user's: a job may be called `x NodeList=n9`."""
    users = ("JobId=", "Command=", "WorkDir=", "Comment=", "AdminComment=", "SystemComment=", "SubmitLine=", "Std")
    return "\n".join(line for line in job.splitlines() if not line.strip().startswith(users))


def _fields(text: str) -> dict[str, str]:
    return dict(reversed(re.findall(r"(?:^|\s)([A-Z][\w:/]*)=(\S*)", text)))  # of a name that is there twice the first


def _asked_gpus(fields: Mapping[str, str], nodes: int, tasks_per_node: int | None) -> int | None:
    """Return the GPUs of each node that the options of salloc name; None where they name none, or not for each node."""
    if (count := _gpus_in(fields.get("TresPerNode"))) is not None:
        return count
    if (count := _gpus_in(fields.get("TresPerTask"))) is not None:
        tasks = fields.get("NumTasks", "")
        per_node = tasks_per_node or (int(tasks) // nodes if tasks.isdigit() and int(tasks) % nodes == 0 else None)
        return count * per_node if per_node else None
    count = _gpus_in(fields.get("TresPerJob"))
    return count // nodes if count is not None and count % nodes == 0 else None


def _gpus_in(text: str | None) -> int | None:
    """Return the GPUs of `gres:gpu:4`, `gres/gpu:h100:4`, `cpu=12,gres/gpu=1`; types add up.

    The name of a type may have other signs, too: nvidia_a100-sxm4-80gb, 1g.10gb.
    """
    found = re.findall(r"\bgpu(?:[:/](?!\d+(?:,|$))[^:=,]+)?(?:[:=](\d+))?(?=,|$)", text or "")
    return sum(int(count or 1) for count in found) if found else None


def _groups(job: str) -> list[dict[str, str]]:
    """Return the lines of --details, each for nodes with equal parts: `Nodes=n[1-2] CPU_IDs=0-7 Mem=0 GRES=gpu:4`."""
    lines = re.findall(r"(?m)^\s*(Nodes=\S+ CPU_IDs=.*)$", job)
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]


def _equal_share(fields: Mapping[str, str], nodes: int) -> dict[str, str]:
    """Return one node's part of the job where only the sums are known. Raises SlurmError where they cannot be read."""
    text = fields.get("AllocTRES") or fields.get("TRES", "")
    sums = {name: count for name, _, count in (pair.partition("=") for pair in text.split(","))}
    counted = {name: count for name, count in sums.items() if name == "cpu" or name.startswith("gres/gpu")}
    if not all(count.isascii() and count.isdigit() for count in counted.values()):
        raise SlurmError(f"scontrol: what the job has cannot be read from TRES={text}")
    cpus = int(sums.get("cpu", "0")) // max(1, nodes)
    # A site may count GPUs by their types alone.
    typed = sum(int(count) for name, count in sums.items() if name.startswith("gres/gpu:"))
    gpus = int(sums.get("gres/gpu", typed)) // max(1, nodes)
    return {"CPU_IDs": f"0-{cpus - 1}" if cpus else "", "GRES": f"gpu:{gpus}" if gpus else ""}


def _node(name: str, group: Mapping[str, str], whole: Mapping[str, str]) -> AllocatedNode:
    gpus, kind = parse_gpus(group.get("GRES", ""))
    threads = whole.get("ThreadsPerCore", "1")
    return AllocatedNode(
        name,
        _count(group.get("CPU_IDs", "")),
        gpus,
        kind,
        usable_cpus(whole),
        parse_gpus(whole.get("Gres", ""))[0],
        max(1, int(threads)) if threads.isdigit() else 1,
    )


def _count(ids: str) -> int:
    """Return how many numbers a list such as `0-7,12` has."""
    ranges = re.findall(r"(\d+)(?:-(\d+))?", ids)
    return sum(int(last or first) - int(first) + 1 for first, last in ranges)
