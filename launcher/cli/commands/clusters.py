"""Cluster profiles: list them, show one with the reason for each value, write a first one from the live cluster.

In a shell:
  launcher clusters list                     the profiles; * marks your own
  launcher clusters show NAME                one, as TOML: each value with its reason and its file
  launcher clusters probe [--output FILE]    on a login node: a first profile of this cluster
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher._util.tables import aligned
from launcher.cli.completion import complete
from launcher.cli.output import error_object, info, print_json, say, warn

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster
    from launcher.config.origins import Origin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `launcher clusters`."""
    add = parser.add_argument
    add("action", choices=("list", "show", "probe"), nargs="?", default="list")
    complete(add("profile", metavar="NAME", nargs="?", help="the profile to show"), "clusters")
    add("--json", action="store_true", help="print one JSON object")
    probe = parser.add_argument_group("probe")
    add = probe.add_argument
    add("--output", metavar="FILE", type=Path, help="write the profile there, if nothing is (default: print it)")
    add("--partition", metavar="NAME", help="describe this partition's nodes (default: the default partition's)")
    add("--account", metavar="NAME", help="the account of the jobs that sbatch is asked about; kept in the profile")
    add("--qos", metavar="NAME", help="likewise the quality of service")
    add("--name", metavar="NAME", help="what the profile calls the cluster (default: Slurm's name for it)")


def main(parsed: argparse.Namespace) -> int:
    """List, show or probe."""
    _check(parsed)
    return {"list": _list, "show": _show, "probe": _probe}[parsed.action](parsed)


def _check(parsed: argparse.Namespace) -> None:
    from launcher._util.errors import ConfigError
    from launcher.api.clusters import known_cluster_names

    if parsed.action == "show" and parsed.profile is None:
        raise ConfigError("which profile?", hint=f"Known: {', '.join(known_cluster_names())}.")
    if parsed.action != "show" and parsed.profile is not None:
        raise ConfigError(f"clusters {parsed.action} takes no name of a profile", where=parsed.profile)
    of_probe = ("output", "partition", "account", "qos", "name")
    given = [f"--{name}" for name in of_probe if getattr(parsed, name) is not None]
    if parsed.action != "probe" and given:
        raise ConfigError(f"clusters {parsed.action} has no option {given[0]}", hint="It belongs to clusters probe.")


def _list(parsed: argparse.Namespace) -> int:
    from launcher.api.clusters import list_clusters

    found, wrong = list_clusters()
    if parsed.json:
        rows = {one.name: {"file": str(one.file), "own": one.own, **one.cluster.model_dump()} for one in found}
        errors = {one.name: {"file": str(one.file), **error_object(one.error)} for one in wrong}
        print_json({"clusters": rows, "errors": errors})
        return 0
    table = [(f"{one.name}{'*' if one.own else ''}", *_columns(one.cluster)) for one in found]
    table = [("NAME", "GPUS", "FABRIC", "DESCRIPTION"), *table]
    say("\n".join(aligned(table)))
    if any(one.own for one in found):
        info("* your own")
    for bad in wrong:
        warn(" ".join(f"the profile {bad.name} is wrong: {bad.error.where or bad.file}: {bad.error.message}".split()))
    return 0


def _columns(cluster: "Cluster") -> tuple[str, str, str]:
    """Return the GPUs of a node, the fabric and the description."""
    count = str(cluster.gpus_per_node) if cluster.gpus_per_node else ""
    gpus = " x ".join(part for part in (count, cluster.gpu or "") if part) or "-"
    return gpus, cluster.fabric or "-", cluster.description


def _show(parsed: argparse.Namespace) -> int:
    from launcher.api.clusters import show_cluster

    found = show_cluster(parsed.profile)
    chain, values = found.chain, found.origins
    if parsed.json:
        print_json(
            {
                "file": str(chain[0][1]),
                "extends": [{"name": name, "file": str(path)} for name, path in chain[1:]],
                "profile": found.cluster.model_dump(),
                "values": {value.name: _as_json(value) for value in values},
            }
        )
        return 0
    say(f"# {parsed.profile}: {chain[0][1]}")
    for name, path in chain[1:]:
        say(f"# extends {name}: {path}")
    if found.of_a_site:
        say(
            "# The profiles of sites that ship were read from the sources that they name, and not tried on these sites."
        )
    files = {path: name for name, path in chain}
    tables = dict.fromkeys(value.key[:-1] for value in sorted(values, key=lambda value: len(value.key)))
    for table in tables:
        say(f"\n[{'.'.join(table)}]" if table else "")
        for value in values:
            if value.key[:-1] == table:
                say(_as_toml(value, files))
    return 0


def _as_json(origin: "Origin") -> dict[str, Any]:
    return {
        "value": origin.stated.value,
        "reason": origin.stated.reason,
        "file": str(origin.stated.file),
        "replaced": [{"value": each.value, "reason": each.reason, "file": str(each.file)} for each in origin.replaced],
    }


def _as_toml(origin: "Origin", names: Mapping[Path, str]) -> str:
    """Return the value as TOML below comments: which profile states it, in place of what, and why."""
    import tomlkit

    of = names[origin.stated.file]
    instead = [f"{tomlkit.item(each.value).as_string()} of {names[each.file]}" for each in origin.replaced]
    whose = f"{of}, instead of {', '.join(instead)}" if instead else of
    reason = (origin.stated.reason or "").splitlines()
    lines = (
        [f"# {whose}: {reason[0]}"] if len(reason) == 1 else [f"# {whose}{':' if reason else ''}", *_comments(reason)]
    )
    if origin.key == ("description",):
        lines = []  # that a profile describes itself needs no reason
    return "\n".join(
        [*lines, f"{tomlkit.key(origin.key[-1]).as_string()} = {tomlkit.item(origin.stated.value).as_string()}"]
    )


def _comments(lines: Iterable[str]) -> list[str]:
    return [f"# {line}".rstrip() for line in lines]


def _probe(parsed: argparse.Namespace) -> int:
    from launcher.api.clusters import own_cluster_file, probe_cluster

    found = probe_cluster(
        partition=parsed.partition,
        account=parsed.account,
        qos=parsed.qos,
        name=parsed.name,
        output=parsed.output,
    )
    file = found.file
    if found.refused is not None:
        warn(
            f"no option could be tried, because Slurm refuses even a plain job: {found.refused}\n"
            "Name what jobs need here: clusters probe --partition NAME --account NAME --qos NAME"
        )
    if file is not None:
        info(f"wrote {file}; see what it means: LAUNCHER_CLUSTERS={file.parent} launcher clusters show {file.stem}")
    if parsed.json:
        print_json({"file": str(file) if file else None, "partition": found.partition, "profile": found.text})
    elif file is None:
        say(found.text, end="")
        info(f"to keep it: launcher clusters probe --output {own_cluster_file(parsed.name or found.partition)}")
    return 0
