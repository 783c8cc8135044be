"""Which store an image command means: that of a cluster's profile."""

import argparse
from typing import TYPE_CHECKING

from launcher.cli.completion import complete

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster
    from launcher.discovery.host import HostContext
    from launcher.images.store.store import Store


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add --cluster."""
    complete(
        parser.add_argument("--cluster", metavar="NAME", help="profile whose store is meant (default: as for run)"),
        "clusters",
    )


def cluster_of(parsed: argparse.Namespace) -> "tuple[Cluster, HostContext]":
    """The profile, layered as for run and submit. Raises SpecError."""
    from launcher.config.load import load_cluster, load_request
    from launcher.discovery.host import detect_host
    from launcher.planning import place

    host = detect_host()
    chosen = getattr(parsed, "on", None) or parsed.cluster
    options = {"cluster": chosen} if chosen else {}
    request = load_request(options, environ=host.environ, directory=host.directory)
    return load_cluster(request.cluster or place.default_cluster(host), host.environ), host


def store_of(parsed: argparse.Namespace) -> "Store":
    """The store of that profile."""
    from launcher.discovery.image import image_store

    cluster, host = cluster_of(parsed)
    return image_store(cluster, host.environ)
