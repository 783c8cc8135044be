"""What a run takes of an allocation: lines of salloc with Slurm's recorded answers, and the edges of the decision."""

import contextlib
import dataclasses
import json
import random
import re
from typing import Any

import pytest

from launcher._util.errors import LauncherError, LayoutError, PrerequisiteError, RequestError
from launcher.discovery.host import ShellJob
from launcher.discovery.recipe import BridgeRecipe
from launcher.planning.allocation import AllocationUse, fair_share, use_allocation
from launcher.planning.model import Plan
from launcher.slurm.allocation import AllocatedNode, Allocation, parse_allocation
from launcher.slurm.nodes import NodeKind
from tests.slurm.salloc_lines import LINES, RECORDED, Line, Runs
from tests.support.building import allocation, cluster, host, plan
from tests.support.quick import few

ANSWERS: dict[str, Any] = json.loads(RECORDED.read_text())


def of_line(line: Line) -> Allocation:
    """Return the allocation that Slurm describes for the line."""
    answer = ANSWERS[line.key]
    names: dict[str, list[str]] = answer["hostnames"]
    job = answer["environ"]["SLURM_JOB_ID"]
    return parse_allocation(job, answer["job"], answer["nodes"], lambda text: tuple(names[text]))


def use(found: Allocation, **changes: Any) -> AllocationUse:
    values: dict[str, Any] = {
        "nodes": None,
        "hosts": (),
        "gpus_per_node": None,
        "profile_gpus_per_node": None,
        "device": "gpu",
    }
    return use_allocation(found, **{**values, **changes})


def test_there_are_forty_lines_and_each_was_recorded() -> None:
    assert len(LINES) >= 40
    assert len({line.key for line in LINES}) == len(LINES)
    assert {line.key for line in LINES} == set(ANSWERS)
    assert not [key for key, answer in ANSWERS.items() if "refused" in answer]


def test_each_line_has_a_source() -> None:
    """A file of a public repository, or the options of the manual: those have to be in the line."""
    short = {
        "-N": "--nodes",
        "-n": "--ntasks",
        "-c": "--cpus-per-task",
        "-G": "--gpus",
        "--tasks-per-node": "--ntasks-per-node",
    }
    for line in LINES:
        if line.source.startswith("salloc(1): "):
            words = " ".join([line.options, *(name for sign, name in short.items() if sign in line.options)])
            assert all(option in words for option in line.source.removeprefix("salloc(1): ").split(", ")), line
        elif not line.source.startswith("https://slurm.schedmd.com/"):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w.-]+)+", line.source), line
            assert not line.ours, line
    public = [line for line in LINES if "(1)" not in line.source and not line.source.startswith("https://")]
    assert len(public) >= 30


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.key)
def test_a_line_runs_the_right_ranks_or_is_refused_with_the_line_that_works(line: Line) -> None:
    found = of_line(line)
    if isinstance(line.becomes, Runs):
        taken = use(found)
        assert (len(taken.nodes), taken.ranks_per_node, taken.cpus_per_rank) == (
            line.becomes.nodes,
            line.becomes.ranks,
            line.becomes.cpus,
        )
        assert taken.gpus_per_node == line.becomes.ranks
        assert any(line.becomes.warns in text for text in (*taken.warnings, *([] if line.becomes.warns else [""])))
        # No CPU that the job has is left over but what cannot be divided.
        for node in found.nodes:
            assert node.cpus - taken.ranks_per_node * (taken.cpus_per_rank or 0) < taken.ranks_per_node
        return
    with pytest.raises(LayoutError) as caught:
        use(found)
    assert line.becomes.says in caught.value.message
    assert "\n" not in caught.value.message
    assert line.becomes.line in (caught.value.hint or "")


EVEN = Allocation("7", tuple(AllocatedNode(name, 8, 4, None, 8, 4) for name in ("n1", "n2")))
UNEVEN = Allocation("7", (AllocatedNode("n1", 8, 4, None, 8, 4), AllocatedNode("n2", 8, 2, None, 8, 4)))
NO_GPUS = Allocation("7", tuple(AllocatedNode(name, 8, 0, None, 8, 8) for name in ("n1", "n2")))
UNCOUNTED = Allocation("7", tuple(AllocatedNode(name, 8, 0, None, 8, 0) for name in ("n1", "n2")))


@pytest.mark.parametrize(
    ("found", "changes", "sentence", "hint"),
    [
        (UNEVEN, {}, "has 4 GPUs on n1 and 2 GPUs on n2", "--gpus-per-node 2, or another allocation: salloc -N 2"),
        (UNEVEN, {"gpus_per_node": 3}, "--gpus-per-node 3, but allocation 7 has 2 on n2", "Use --gpus-per-node 2"),
        (allocation(2, 4), {"gpus_per_node": 8}, "but allocation 77 has 4 a node", "Use --gpus-per-node 4"),
        (allocation(2, 4), {"nodes": 3}, "--nodes 3, but the allocation 77 has 2", "salloc -N 3"),
        (NO_GPUS, {}, "allocation 7 has no GPUs", "salloc -N 2 --gpus-per-node=8 --exclusive"),
        (NO_GPUS, {"gpus_per_node": 4}, "but allocation 7 has 0 a node", "salloc -N 2 --gpus-per-node=4 --exclusive"),
        (UNCOUNTED, {}, "Slurm counts no GPUs on n1", "gpus_per_node in the cluster profile"),
        (allocation(2, 4, cpus=2), {}, "has 2 CPUs on n1 for 4 ranks", "--srun-arg=--overcommit"),
    ],
)
def test_what_does_not_fit_is_refused(found: Allocation, changes: dict[str, Any], sentence: str, hint: str) -> None:
    with pytest.raises(LayoutError) as caught:
        use(found, **changes)
    assert sentence in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("found", "changes", "expected"),
    [
        (UNEVEN, {"gpus_per_node": 2}, (("n1", "n2"), 2, 4, 2)),
        (UNEVEN, {"nodes": 1}, (("n1",), 4, 2, 4)),
        # salloc --exclusive --gres=gpu:2 gives all four
        (dataclasses.replace(EVEN, asked_gpus_per_node=2), {}, (("n1", "n2"), 2, 4, 2)),
        (dataclasses.replace(EVEN, asked_gpus_per_node=2), {"gpus_per_node": 4}, (("n1", "n2"), 4, 2, 4)),
        (UNEVEN, {"hosts": ("n2",)}, (("n2",), 2, 4, 2)),
        (UNCOUNTED, {"gpus_per_node": 4}, (("n1", "n2"), 4, 2, None)),
        (UNCOUNTED, {"profile_gpus_per_node": 8}, (("n1", "n2"), 8, 1, None)),
        # On CPUs ranks are what was asked for, one for each GPU or task, or the profile's.
        (UNCOUNTED, {"device": "cpu"}, (("n1", "n2"), 1, 8, None)),
        (EVEN, {"device": "cpu", "profile_gpus_per_node": 2}, (("n1", "n2"), 2, 4, 2)),
        (dataclasses.replace(EVEN, asked_gpus_per_node=4), {"device": "cpu"}, (("n1", "n2"), 4, 2, 4)),
        (NO_GPUS, {"device": "cpu", "profile_gpus_per_node": 2}, (("n1", "n2"), 2, 4, None)),
        (NO_GPUS, {"device": "cpu", "gpus_per_node": 8}, (("n1", "n2"), 8, 1, None)),
        (allocation(1, 4, cpus=2), {"overcommit": True}, (("n1",), 4, None, 4)),
    ],
)
def test_what_is_taken(found: Allocation, changes: dict[str, Any], expected: tuple[Any, ...]) -> None:
    taken = use(found, **changes)
    assert (taken.nodes, taken.ranks_per_node, taken.cpus_per_rank, taken.gpus_per_node) == expected


def test_ranks_get_whole_cores_where_there_is_one_for_each() -> None:
    threads = Allocation("7", (AllocatedNode("n1", 30, 4, None, 96, 4, threads_per_core=2),))
    assert use(threads).cpus_per_rank == 6  # 30 / 4 is 7, and srun would round it up to 8
    few = Allocation("7", (AllocatedNode("n1", 4, 4, None, 96, 4, threads_per_core=2),))
    assert use(few).cpus_per_rank == 1
    assert (fair_share(192, 8, 2), fair_share(30, 4, 2), fair_share(4, 4, 2)) == (24, 6, 1)


def test_what_stays_unused_of_a_node_is_said() -> None:
    some = allocation(2, 2, cpus=4, of=(8, 192))
    assert use(some).warnings == (
        "n1 has 8 GPUs, and the run uses 2",
        "n1 has 24 CPUs for each GPU, and a rank gets 2: salloc --exclusive gives all CPUs of each node",
    )
    assert use(allocation(2, 8, cpus=192)).warnings == ()
    run = plan("allocation", profile=cluster(), allocated=some)
    assert set(use(some).warnings) <= set(run.warnings)


JOB = """JobId=7 JobName=x NodeList=n9
   JobState=RUNNING Reason=None Dependency=(null)
   NodeList=n[1-2]
   NumNodes=2 NumCPUs=16 NumTasks=2
   Socks/Node=* NtasksPerN:B:S:C={tasks}:0:*:* CoreSpec=*
     Nodes=n[1-2] CPU_IDs=0-5,8-9 Mem=0 GRES=gpu:h100:4(IDX:0-3)
   Command=/x NodeList=n8
"""


def expand(names: str) -> tuple[str, ...]:
    return {"n[1-2]": ("n1", "n2"), "n1": ("n1",)}[names]


def test_answers_of_scontrol() -> None:
    nodes = "NodeName=n1 Arch=x\n   CPUTot=32 CoreSpecCount=2 ThreadsPerCore=2\n   Gres=gpu:h100:8(S:0-1)\n"
    found = parse_allocation("7", JOB.format(tasks=4), nodes, expand)
    first, second = found.nodes
    assert first == AllocatedNode("n1", 8, 4, "h100", 28, 8, 2)
    assert (second.name, second.node_cpus, second.node_gpus) == ("n2", None, 0)
    assert (found.tasks_per_node, found.components) == (4, 1)
    assert parse_allocation("7", JOB.format(tasks=0), "", expand).tasks_per_node is None
    sums = "JobId=7\n   JobState=RUNNING\n   NodeList=n[1-2]\n   TRES=cpu=16,mem=8G,node=2,gres/gpu=8\n"
    for gpus in ("gres/gpu=8", "gres/gpu:h100=8", "gres/gpu=8,gres/gpu:h100=8", "gres/gpu:h100=6,gres/gpu:a100=2"):
        shown = parse_allocation("7", sums.replace("gres/gpu=8", gpus), "", expand)
        assert [(node.cpus, node.gpus) for node in shown.nodes] == [(8, 4)] * 2


def garbled(text: str, rng: random.Random) -> str:
    """An answer of Slurm without a line, cut off, with another value, with signs that do not belong there, or twice."""
    place = rng.randrange(len(text) + 1)
    lines, values = text.splitlines(), list(re.finditer(r"=(\S*)|(\d+)", text))
    kind = rng.randrange(5)
    if kind == 0 and lines:
        lines.pop(rng.randrange(len(lines)))
        return "\n".join(lines)
    if kind == 1 and values:
        found = rng.choice(values)
        begin, end = found.span(1) if found[1] is not None else found.span(2)
        return text[:begin] + rng.choice(VALUES) + text[end:]
    return {2: text[:place], 3: text[:place] + rng.choice("\0é\n= ") + text[place:]}.get(kind, text + text)


VALUES = ["", "0", "-1", "4K", "1.5", "9" * 30, "(null)", "N/A", "*", "gpu", "gpu:", "gpu:h100", "gpu(IDX:)", "0-"]


def test_answers_that_make_no_sense_are_refused_like_others() -> None:
    """No other exception than the launcher's own, whatever Slurm prints."""
    rng = random.Random(14)  # noqa: S311 - examples
    for _ in range(few(4000)):
        line = rng.choice(LINES)
        answer = ANSWERS[line.key]
        texts = {"job": answer["job"], "nodes": answer["nodes"]}
        for _ in range(rng.randint(1, 3)):
            which = rng.choice(("job", "job", "nodes"))
            texts[which] = garbled(texts[which], rng)
        names = answer["hostnames"]

        def expand_known(text: str, names: dict[str, list[str]] = names) -> tuple[str, ...]:
            return tuple(names.get(text, ()))

        with contextlib.suppress(LauncherError):
            use(parse_allocation(answer["environ"]["SLURM_JOB_ID"], texts["job"], texts["nodes"], expand_known))


@pytest.mark.parametrize(
    ("lines", "asked"),
    [
        ("TresPerNode=gres:gpu:4", 4),
        ("TresPerNode=gres/gpu:h100:4", 4),
        ("TresPerNode=gres:gpu:a100:2,gres:gpu:h100:1", 3),
        ("TresPerNode=gres:gpu", 1),
        ("TresPerNode=gres/gpu:nvidia_a100-sxm4-80gb:4", 4),
        ("TresPerNode=gres/gpu:1g.10gb", 1),
        ("TresPerNode=gres/gpu:h100:2,gres/gpu:a100-pcie", 3),
        ("TresPerNode=gres:craynetwork:1", None),
        ("NumNodes=2 NumTasks=8\n   TresPerTask=cpu=12,gres/gpu=1", 4),
        ("NumNodes=2 NumTasks=7\n   TresPerTask=gres:gpu:1", None),
        ("TresPerJob=gres:gpu:8", 4),
        ("TresPerJob=gres:gpu:7", None),
        ("", None),
    ],
)
def test_gpus_that_were_asked_for(lines: str, asked: int | None) -> None:
    job = (
        f"JobId=7\n   JobState=RUNNING\n   NodeList=n[1-2]\n   {lines}\n   Nodes=n[1-2] CPU_IDs=0-7 Mem=0 GRES=gpu:8\n"
    )
    assert parse_allocation("7", job, "", expand).asked_gpus_per_node == asked


@pytest.mark.parametrize(
    "text", ["JobId=7\n   JobState=COMPLETED\n   NodeList=n1\n", "JobId=7\n   JobState=RUNNING\n", ""]
)
def test_an_allocation_that_has_ended_is_named(text: str) -> None:
    with pytest.raises(PrerequisiteError, match="the allocation 7 of this shell has ended"):
        parse_allocation("7", text, "", expand)


def test_the_step_asks_for_what_was_given_and_overlaps_the_step_of_its_shell() -> None:
    run = plan("allocation", profile=cluster(), allocated=allocation(2, 4, cpus=32))
    assert run.allocation is not None
    assert (run.allocation.cpus_per_task, run.allocation.gpus_per_node, run.allocation.overlap) == (8, 4, False)
    inside = plan("allocation", profile=cluster(), where=host(job=ShellJob("77", "0")))
    assert inside.allocation is not None and inside.allocation.overlap
    assert plan().allocation is None


# ---- batch jobs: a rank's share of the partition's nodes

H100 = NodeKind(100, 192, 8, 2)


def directives(*kinds: NodeKind, profile: dict[str, Any] | None = None, **request: Any) -> dict[str, str | None]:
    run = plan(profile=cluster(**(profile or {})), request=request, kinds=kinds)
    return dict(run.directives)


def test_a_job_asks_for_the_cpus_that_belong_to_its_gpus() -> None:
    assert directives(H100)["cpus-per-task"] == "24"
    assert directives(H100)["ntasks-per-node"] == "8"
    assert directives(H100, gpus_per_node=2)["cpus-per-task"] == "24"
    assert directives(H100, NodeKind(4, 96, 8, 2))["cpus-per-task"] == "12", "every node can run it"
    assert directives(H100, NodeKind(4, 16, 2, 2))["cpus-per-task"] == "24", "that one has too few GPUs anyway"
    assert directives(NodeKind(4, 64, 4, 1))["ntasks-per-node"] == "4", "as many GPUs as the nodes have"
    for stated in ({"sbatch": {"exclusive": True}}, {"sbatch": {"cpus-per-gpu": "4"}}, {}):
        kinds = (H100,) if stated else ()
        assert "cpus-per-task" not in directives(*kinds, **stated)
    assert "cpus-per-task" not in directives(H100, sbatch={"cpus-per-task": False})
    assert directives(H100, sbatch={"cpus-per-task": "3"})["cpus-per-task"] == "3"
    assert directives(H100, profile={"cpus_per_task": 5})["cpus-per-task"] == "5"
    assert "cpus-per-task" not in directives(H100, profile={"device": "cpu"})
    for one_thread in ({"hint": "nomultithread"}, {"threads-per-core": 1}):
        assert directives(H100, profile={"directives": one_thread})["cpus-per-task"] == "12", "cores are counted"


def test_an_assumed_number_of_gpus_is_said_to_be_one() -> None:
    assert [text for text in plan(profile=cluster()).unchecked if text.startswith("that the nodes have 8 GPUs")]
    for known in (
        plan(profile=cluster(), kinds=(H100,)),
        plan(profile=cluster(gpus_per_node=4)),
        plan(profile=cluster(), request={"gpus_per_node": 8}),
        plan("allocation", profile=cluster()),
    ):
        assert not [text for text in known.unchecked if "GPUs: neither" in text]


def test_a_plan_that_leaves_most_of_its_nodes_unused_says_so() -> None:
    some = plan(request={"nodes": 2, "gpus_per_node": 2}, profile=cluster(), kinds=(H100,))
    assert "each node has 8 GPUs, and the run uses 2 of them on each of 2 nodes" in some.warnings
    few = plan(profile=cluster(cpus_per_task=1), kinds=(H100,))
    assert "the nodes have 24 CPUs for each GPU, and a rank gets 1 (cpus-per-task)" in few.warnings
    assert not [text for text in plan(profile=cluster(), kinds=(H100,)).warnings if "GPU" in text]


# ---- gradient accumulation fusion, which needs APEX

FUSION = "model.gradient_accumulation_fusion"
BRIDGE = BridgeRecipe("llama32_1b_pretrain_config")


def fused(*changes: str, backend: Any = "local", kernel: bool | None = False, gpus: int = 2, **profile: Any) -> Plan:
    local = {"scheduler": "local", "device": "auto"} if backend == "local" else {}
    return plan(
        backend,
        profile=cluster(**{**local, **profile}),
        changes=changes,
        recipe=BRIDGE,
        where=host(gpus=gpus),
        kernel=kernel,
    )


def test_a_run_on_this_machine_without_apex_does_without_the_fusion() -> None:
    assert f"{FUSION}=false" in fused().overrides
    assert [text for text in fused().warnings if text.startswith(f"{FUSION}=false is set")]
    for other in (fused(kernel=True), fused(kernel=None), fused(gpus=0), fused(device="cpu")):
        assert f"{FUSION}=false" not in other.overrides
    with pytest.raises(RequestError, match="needs APEX"):
        fused(f"{FUSION}=true")
    assert fused(f"{FUSION}=false").overrides == (f"{FUSION}=false",)


def test_a_job_without_apex_is_warned_of() -> None:
    said = [text for text in fused(backend="batch").warnings if "no APEX" in text]
    assert said and f"{FUSION}=false" in said[0]
    for quiet in (fused(backend="batch", kernel=True), fused(f"{FUSION}=false", backend="batch")):
        assert not [text for text in quiet.warnings if "APEX" in text]
