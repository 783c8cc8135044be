"""List the cluster profiles, or show one: `launcher clusters list`, `launcher clusters show NAME`."""

import argparse
import os

from launcher.cli.printing import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `launcher clusters`."""
    parser.add_argument("action", choices=("list", "show"), nargs="?", default="list")
    parser.add_argument("name", metavar="NAME", nargs="?", help="the profile to show")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """List, or show one with the file that each came from."""
    from launcher.errors import SpecError
    from launcher.spec.load import cluster_names, load_cluster

    names = cluster_names(os.environ)
    if parsed.action == "show":
        if parsed.name is None:
            raise SpecError("which profile?", hint=f"Known: {', '.join(sorted(names))}.")
        cluster = load_cluster(parsed.name, os.environ)
        if parsed.json:
            print_json({"file": str(names[parsed.name]), "profile": cluster.model_dump(mode="json")})
            return 0
        print(f"# {names[parsed.name]}")
        for field, value in cluster.model_dump(mode="json", exclude_defaults=True).items():
            print(f"{field} = {value!r}")
        return 0
    found = {name: load_cluster(name, os.environ) for name in sorted(names)}
    if parsed.json:
        print_json(
            {"clusters": {name: {"file": str(names[name]), **c.model_dump(mode="json")} for name, c in found.items()}}
        )
        return 0
    width = max(map(len, found))
    for name, cluster in found.items():
        print(f"{name:{width}}  {cluster.description}")
    return 0
