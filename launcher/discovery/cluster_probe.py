"""A first profile of a cluster: a pure function from the answers of its Slurm to TOML.

Each value has a comment with its source. A value that Slurm does not state becomes a comment, never a guess.
"""

import json
import re

from launcher._util.tables import printable
from launcher.contract.fabrics import FABRICS, NAMES
from launcher.runtimes import RUNTIMES
from launcher.slurm.info import NodeGroup
from launcher.slurm.probe import ClusterProbe, OptionTest

_KNOWN_GPUS = ("GB300", "GB200", "B300", "B200", "H200", "H100", "H20", "A100", "L40S", "V100")

_PROBES = " or ".join(dict.fromkeys(f"`{fabric.probe}`" for fabric in FABRICS.values() if fabric.probe))

_UNKNOWN = (
    "# Not set, because Slurm does not know it:",
    f"#   fabric          {', '.join(NAMES[:-1])} or {NAMES[-1]}: on a node, {_PROBES}",
    "#   nics_per_node   devices of the fabric for GPUs: on a node, `ls /sys/class/infiniband`",
    "#   run_root        a directory that all nodes share; default: ./runs",
    "#   image, mounts   the image that tasks run in, and the directories of the nodes that they see",
)


def write_profile(found: ClusterProbe, name: str | None = None) -> str:
    """Return the text of a profile; `name` names the cluster in its description (default: Slurm's ClusterName)."""
    called = name or found.settings.get("ClusterName") or "this cluster"
    sections = [
        _head(found, called),
        _nodes(found),
        _slurm(found),
        list(_UNKNOWN),
        _directives(found),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def gpu_model(kind: str | None) -> str | None:
    """Return NVIDIA's short form of a GRES type: H100 for `h100` and `nvidia_h100_80gb_hbm3`; None if unknown."""
    words = re.split(r"[^A-Z0-9]+", (kind or "").upper())
    return next((known for known in _KNOWN_GPUS if known in words), None)


def _head(found: ClusterProbe, called: str) -> list[str]:
    # Slurm writes its month with two digits: 22.05.8.
    release = ".".join(f"{part:02}" if place == 1 else str(part) for place, part in enumerate(found.release))
    first = found.own[0]
    gpus = f", {first.gpus} GPUs a node" if first.gpus else ""
    others = [name for name in dict.fromkeys(group.partition for group in found.groups) if name != found.partition]
    lines = [
        f"# Written by `launcher clusters probe` from a login node, Slurm {release or '(release unknown)'}.",
        "# Slurm's defaults apply to what is not set here; `launcher clusters show` shows the effective profile.",
        *([f"# Further partitions: {', '.join(others)} (probe --partition NAME describes one)."] if others else []),
        'extends = "slurm"',
        f"description = {_text(printable(f'{called}, partition {found.partition}{gpus}'))}",
    ]
    return [_comment(line) if line.startswith("#") else line for line in lines]


def _nodes(found: ClusterProbe) -> list[str]:
    first, *others = found.own
    lines = [_comment(f"# sinfo: {_group_text(first)}")]
    lines += [_comment(f"# sinfo: the partition also has {_group_text(other)}") for other in others]
    if first.gpus:
        lines.append(f"gpus_per_node = {first.gpus}")
        lines += _gpu(first)
    else:
        lines += [
            "# sinfo: these nodes have no GPUs in GRES; one rank on each node unless you change it",
            "gpus_per_node = 1",
            "# sinfo: no GPUs in GRES; a run without GPUs uses gloo",
            'device = "cpu"',
        ]
    lines += _cpus(found, first)
    architecture = found.node.get("Arch")
    if architecture in ("x86_64", "aarch64"):
        lines += [
            f"# scontrol show node {found.node.get('NodeName', '')}: Arch",
            f"architecture = {_text(architecture)}",
        ]
    else:
        lines.append(_comment(f"# architecture: unknown (scontrol show node: Arch={architecture or 'not set'})"))
    return lines


def _group_text(group: NodeGroup) -> str:
    kind = f" of type {group.gpu_type}" if group.gpu_type else ""
    gpus = f"{group.gpus} GPUs{kind}" if group.gpus else "no GPUs"
    nodes = "1 node" if group.nodes == 1 else f"{group.nodes} nodes"
    return f"{nodes} with {gpus}, {group.cpus} CPUs, {group.memory_mb} MB of memory"


def _gpu(group: NodeGroup) -> list[str]:
    model = gpu_model(group.gpu_type)
    if model:
        return [_comment(f"# sinfo: the type in GRES is {group.gpu_type}"), f"gpu = {_text(model)}"]
    source = f"the type in GRES is {group.gpu_type}" if group.gpu_type else "GRES names no type"
    return [_comment(f"# gpu: unknown ({source}); nvidia-smi on a node shows it")]


def _cpus(found: ClusterProbe, group: NodeGroup) -> list[str]:
    test = found.option_tests.get("cpus-per-task")
    if test is None:
        return []
    count = group.cpus // group.gpus
    if _usable(found, test):
        return [
            f"# sinfo: {group.cpus} CPUs for {group.gpus} GPUs; sbatch --test-only accepts --cpus-per-task={count}",
            f"cpus_per_task = {count}",
        ]
    return [_refused("cpus_per_task", f"--cpus-per-task={count}", found, test)]


def _slurm(found: ClusterProbe) -> list[str]:
    how = "the default partition" if any(_is_default(group, found) for group in found.own) else "as requested"
    up = all(group.up for group in found.own)
    lines = [
        _comment(f"# sinfo: {how}{'' if up else '; it is not up at present'}"),
        f"partition = {_text(found.partition)}",
        *[line for key, value in found.asked.items() for line in ("# as requested", f"{key} = {_text(value)}")],
        *_time(found),
        *_runtime(found),
        *_topology(found),
    ]
    types = ", ".join(found.mpi_types) if found.mpi_types else "no answer"
    default = found.settings.get("MpiDefault", "unknown")
    lines.append(
        _comment(f"# mpi: not set, because ranks need no MPI; srun --mpi=list: {types}; MpiDefault: {default}")
    )
    lines.append(_comment(f"# accounting: {_accounting(found)}"))
    return lines


def _is_default(group: NodeGroup, found: ClusterProbe) -> bool:
    return group.default and group.partition == found.partition


def _time(found: ClusterProbe) -> list[str]:
    limit = found.limits.get("MaxTime")
    default = found.limits.get("DefaultTime", "NONE")
    stated = "" if default == "NONE" else f"; a job that names none gets {default}"
    if limit is None:
        return ["# time_limit: unknown (scontrol show partition)"]
    if limit == "UNLIMITED":
        return [_comment(f"# time_limit: not set, the partition has none (scontrol show partition){stated}")]
    source = f"# scontrol show partition: MaxTime{stated}. A job with a shorter limit may start sooner."
    return [_comment(source), f"time_limit = {_text(limit)}"]


def _runtime(found: ClusterProbe) -> list[str]:
    if found.srun_help is None:
        return ["# runtime: unknown (srun --help did not answer); where an image is named, it is asked again"]
    plugins = [each for each in RUNTIMES.values() if each.srun_option]
    for each in plugins:
        if each.why_unavailable(found.srun_help, frozenset()) is None:
            return [
                f"# srun --help: it has {each.srun_option}, so {each.name} is loaded",
                f"runtime = {_text(each.name)}",
            ]
    absent = " and ".join(f"no {each.srun_option}, so there is no {each.name}" for each in plugins)
    others = " or ".join(each.name for each in RUNTIMES.values() if each.programs)
    return [
        f"# runtime: not set. srun --help: {absent}; whether the nodes have {others} is unknown,",
        "# and where an image is named, what is on the PATH of the shell that starts the run is used",
    ]


def _topology(found: ClusterProbe) -> list[str]:
    plugin = found.settings.get("TopologyPlugin", "unknown")
    test = found.option_tests.get("segment")
    source = f"scontrol show config: TopologyPlugin={plugin}"
    if plugin != "topology/block" or test is None:
        return [_comment(f"# topology: not set, {source}")]
    if not _accepted(found, test):
        return [_comment(f"# {source}"), _refused("topology", "--segment", found, test)]
    sizes = ", ".join(map(str, found.block_sizes)) or "unknown"
    return [
        _comment(f"# {source}; sbatch --test-only accepts --segment"),
        'topology = "block"',
        _comment(f"# nvlink_domain_nodes: unknown. Slurm's blocks have {sizes} nodes (scontrol show topology);"),
        "# if blocks are NVLink domains, such as racks of NVL72, set their number of nodes.",
    ]


def _accounting(found: ClusterProbe) -> str:
    kind = found.settings.get("AccountingStorageType", "")
    if not kind or kind in ("(null)", "accounting_storage/none"):
        return "off, so ended jobs are known only while slurmctld keeps them (MinJobAge)"
    return f"on ({kind}); without `account` Slurm uses each user's default"


def _directives(found: ClusterProbe) -> list[str]:
    lines = ["[directives]"]
    if found.baseline is not None and found.baseline.accepted is not True:
        words = found.baseline.words or "no answer"
        lines.append(_comment(f"# No option could be tested: Slurm does not accept even a plain job ({words})."))
    lines += _gpu_request(found)
    for key, value, why in (
        ("exclusive", "true", "a run uses every GPU of its nodes"),
        ("mem", '"0"', "all of a node's memory"),
    ):
        test = found.option_tests.get(key)
        option = "--exclusive" if key == "exclusive" else "--mem=0"
        if test is None:
            continue
        if not _usable(found, test):
            lines.append(_refused(key, option, found, test))
        elif found.own[0].gpus:
            lines += [f"# {why}; sbatch --test-only accepts {option}", f"{key} = {value}"]
        else:
            lines.append(f"# {key}: sbatch --test-only accepts {option}; not set for nodes without GPUs")
    lines += _segment(found)
    return lines


def _gpu_request(found: ClusterProbe) -> list[str]:
    forms = [key for key in ("gpus-per-node", "gres", "gres with type") if key in found.option_tests]
    refused = [
        _refused(key, found.option_tests[key].options[-1], found, found.option_tests[key])
        for key in forms
        if not _accepted(found, found.option_tests[key])
    ]
    if not forms:
        return ["# sinfo: no GPUs to request", "gpus-per-node = false"]
    if all(found.option_tests[key].accepted is None for key in forms) or not _baseline_accepted(found):
        return refused  # nothing is known, so the extended profile decides
    taken = next((key for key in forms if _accepted(found, found.option_tests[key])), None)
    others = [key for key in forms if key != taken and _accepted(found, found.option_tests[key])]
    also = f" (and {', '.join(found.option_tests[key].options[-1] for key in others)})" if others else ""
    if taken is None:
        return [*refused, "# sbatch --test-only refuses every option that requests GPUs", "gpus-per-node = false"]
    source = _comment(f"# sbatch --test-only accepts {found.option_tests[taken].options[-1]}{also}")
    if taken == "gpus-per-node":
        return [*refused, source, "gpus-per-node = true"]
    value = "true" if taken == "gres" else _text(found.option_tests[taken].options[-1].removeprefix("--gres="))
    return [*refused, "# refused, see above", "gpus-per-node = false", source, f"gres = {value}"]


def _segment(found: ClusterProbe) -> list[str]:
    test = found.option_tests.get("segment")
    if test is None or found.settings.get("TopologyPlugin") == "topology/block":
        return []
    if _accepted(found, test):
        return ["# segment: sbatch --test-only accepts --segment, which has no effect without topology/block"]
    return [_refused("segment", "--segment=1", found, test)]


def _baseline_accepted(found: ClusterProbe) -> bool:
    return found.baseline is None or found.baseline.accepted is True


def _accepted(found: ClusterProbe, test: OptionTest) -> bool:
    """Return whether an option was accepted; unknown, thus False, if the baseline job is refused as well."""
    return _baseline_accepted(found) and test.accepted is True


def _usable(found: ClusterProbe, test: OptionTest) -> bool:
    """Return whether an option is accepted also together with the others: sites restrict combinations."""
    return _accepted(found, test) and (found.combined is None or found.combined.accepted is True)


def _refused(key: str, option: str, found: ClusterProbe, test: OptionTest) -> str:
    if test.accepted is None or not _baseline_accepted(found):
        reason = test.words or "even a plain job is refused"
        return _comment(f"# {key}: unknown (sbatch --test-only {option}: {reason})")
    if test.accepted and found.combined is not None:
        words = found.combined.words or "no answer"
        return _comment(f"# {key}: sbatch --test-only accepts {option} alone, not with the others: {words}")
    return _comment(f"# {key}: sbatch --test-only refuses {option}: {test.words}")


def _comment(text: str) -> str:
    """Return text for one comment line: control characters, also in Slurm's messages, become spaces."""
    readable = text.encode(errors="replace").decode()
    return "".join(sign if ord(sign) >= 32 and ord(sign) != 127 else " " for sign in readable)


def _text(value: str) -> str:
    """Return a TOML string: a JSON string with the one further character that TOML requires to be escaped."""
    readable = value.encode(errors="replace").decode()
    return json.dumps(readable, ensure_ascii=False).replace("\x7f", "\\u007f")
