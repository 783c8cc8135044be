"""Cluster profiles: list them, show one with the reason for each value, write a first one from the live cluster.

launcher clusters list                       the profiles; * marks your own
launcher clusters show NAME                  one, as TOML: each value with its reason, its file, and what it replaced
launcher clusters probe [--output FILE]      on a login node: a first profile of this cluster
"""

import argparse
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.cli.completion import complete
from launcher.cli.output import print_json, say

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster
    from launcher.config.origins import Origin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `launcher clusters`."""
    add = parser.add_argument
    add("action", choices=("list", "show", "probe"), nargs="?", default="list")
    complete(add("profile", metavar="NAME", nargs="?", help="the profile to show"), "clusters")
    add("--json", action="store_true", help="print one JSON object")
    probe = parser.add_argument_group("probe")
    add = probe.add_argument
    add("--output", metavar="FILE", type=Path, help="write the profile there, if nothing is (default: print it)")
    add("--partition", metavar="NAME", help="describe this partition's nodes (default: the default partition's)")
    add("--name", metavar="NAME", help="what the profile calls the cluster (default: Slurm's name for it)")


def main(parsed: argparse.Namespace) -> int:
    """List, show or probe."""
    _check(parsed)
    return {"list": _list, "show": _show, "probe": _probe}[parsed.action](parsed)


def _check(parsed: argparse.Namespace) -> None:
    from launcher._util.errors import SpecError
    from launcher.config.load import cluster_names

    if parsed.action == "show" and parsed.profile is None:
        raise SpecError("which profile?", hint=f"Known: {', '.join(sorted(cluster_names(os.environ)))}.")
    if parsed.action != "show" and parsed.profile is not None:
        raise SpecError(f"clusters {parsed.action} takes no name of a profile", where=parsed.profile)
    given = [f"--{name}" for name in ("output", "partition", "name") if getattr(parsed, name) is not None]
    if parsed.action != "probe" and given:
        raise SpecError(f"clusters {parsed.action} has no option {given[0]}", hint="It belongs to clusters probe.")


def _list(parsed: argparse.Namespace) -> int:
    from launcher._util.resources import resource
    from launcher.config.load import cluster_names, load_cluster

    names = cluster_names(os.environ)
    found = {name: load_cluster(name, os.environ) for name in sorted(names)}
    shipped = resource("configs/clusters")
    own = {name for name, path in names.items() if path.parent != shipped}
    if parsed.json:
        rows = {
            name: {"file": str(names[name]), "own": name in own, **cluster.model_dump(mode="json")}
            for name, cluster in found.items()
        }
        print_json({"clusters": rows})
        return 0
    table = [(f"{name}{'*' if name in own else ''}", *_columns(cluster)) for name, cluster in found.items()]
    table = [("NAME", "GPUS", "FABRIC", "DESCRIPTION"), *table]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    for *cells, description in table:
        print(
            "  ".join([*(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)), description]).rstrip()
        )
    if own:
        say("* your own")
    return 0


def _columns(cluster: "Cluster") -> tuple[str, str, str]:
    """GPUs of a node, the fabric, the description."""
    count = str(cluster.gpus_per_node) if cluster.gpus_per_node else ""
    gpus = " x ".join(part for part in (count, cluster.gpu or "") if part) or "-"
    return gpus, cluster.fabric or "-", cluster.description


def _show(parsed: argparse.Namespace) -> int:
    from launcher.config.load import cluster_chain, load_cluster
    from launcher.config.origins import origins

    cluster = load_cluster(parsed.profile, os.environ)
    chain = cluster_chain(parsed.profile, os.environ)
    values = origins(parsed.profile, os.environ)
    if parsed.json:
        print_json(
            {
                "file": str(chain[0][1]),
                "extends": [{"name": name, "file": str(path)} for name, path in chain[1:]],
                "profile": cluster.model_dump(mode="json"),
                "values": {value.name: _as_json(value) for value in values},
            }
        )
        return 0
    print(f"# {parsed.profile}: {chain[0][1]}")
    for name, path in chain[1:]:
        print(f"# extends {name}: {path}")
    files = {path: name for name, path in chain}
    tables = dict.fromkeys(value.key[:-1] for value in sorted(values, key=lambda value: len(value.key)))
    for table in tables:
        print(f"\n[{'.'.join(table)}]" if table else "")
        for value in values:
            if value.key[:-1] == table:
                print(_as_toml(value, files))
    return 0


def _as_json(origin: "Origin") -> dict[str, Any]:
    return {
        "value": origin.stated.value,
        "reason": origin.stated.reason,
        "file": str(origin.stated.file),
        "replaced": [{"value": each.value, "reason": each.reason, "file": str(each.file)} for each in origin.replaced],
    }


def _as_toml(origin: "Origin", names: Mapping[Path, str]) -> str:
    """The value as TOML below comments: whose it is, instead of what, and why."""
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
    from launcher._util.shell import LocalShell
    from launcher.discovery.cluster_probe import profile
    from launcher.slurm.probe import probe_cluster

    target = _target(parsed.output)
    found = probe_cluster(LocalShell(), parsed.partition)
    text = profile(found, parsed.name)
    if target is not None:
        _write(target, text)
        say(
            f"wrote {target}; see what it means: LAUNCHER_CLUSTERS={target.parent} launcher clusters show {target.stem}"
        )
    if parsed.json:
        print_json({"file": str(target) if target else None, "partition": found.partition, "profile": text})
    elif target is None:
        print(text, end="")
        say(f"to keep it: launcher clusters probe --output {config_file(parsed.name or found.partition)}")
    return 0


def config_file(name: str) -> Path:
    """Where the user's own profile of that name is looked for."""
    from launcher.config.load import config_home

    return config_home(os.environ) / "clusters" / f"{name}.toml"


def _target(output: Path | None) -> Path | None:
    """The file to write, before anything is asked."""
    from launcher._util.errors import SpecError

    if output is None:
        return None
    target = output.expanduser().absolute()
    if target.suffix != ".toml" or target.name == ".toml":
        raise SpecError(
            f"{output} is no name of a profile's file", where="--output", hint="It ends in .toml: mine.toml."
        )
    if target.exists():
        raise SpecError(f"{target} is there already", where="--output", hint="Move it away, or choose another name.")
    return target


def _write(target: Path, text: str) -> None:
    from launcher._util.errors import DiskError

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise DiskError(f"cannot be written: {error.strerror}", where=str(target)) from error
