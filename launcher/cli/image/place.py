"""Which store an image command means: that of a cluster's profile."""

import argparse
from typing import TYPE_CHECKING

from launcher.cli.completion import complete

if TYPE_CHECKING:
    from launcher.facts.world import World
    from launcher.image.storage.store import Store
    from launcher.spec.cluster import Cluster


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add --cluster."""
    complete(
        parser.add_argument("--cluster", metavar="NAME", help="profile whose store is meant (default: as for run)"),
        "clusters",
    )


def cluster_of(parsed: argparse.Namespace) -> "tuple[Cluster, World]":
    """The profile, layered as for run and submit. Raises SpecError."""
    from launcher.facts.world import look
    from launcher.plan import place
    from launcher.spec.load import load_cluster, load_request

    world = look()
    chosen = getattr(parsed, "on", None) or parsed.cluster
    options = {"cluster": chosen} if chosen else {}
    request = load_request(options, environ=world.environ, directory=world.directory)
    return load_cluster(request.cluster or place.default_cluster(world), world.environ), world


def store_of(parsed: argparse.Namespace) -> "Store":
    """The store of that profile."""
    from launcher.facts.image import image_store

    cluster, world = cluster_of(parsed)
    return image_store(cluster, world.environ)
