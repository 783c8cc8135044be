"""`launcher image build|import --on CLUSTER`: made on a compute node, into the store that all nodes see."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster
    from launcher.images.build.build import BuildRequest
    from launcher.images.build.importing import ImportRequest
    from launcher.images.build.report import Report
    from launcher.images.build.result import ImageOutcome
    from launcher.images.store.store import Store


def make_on(
    parsed: argparse.Namespace,
    cluster: "Cluster",
    request: "BuildRequest | ImportRequest",
    store: "Store",
    report: "Report",
) -> "ImageOutcome":
    """Submit, watch, return what was made. Raises the LauncherError that was raised on the node, or SlurmError."""
    from launcher.cli.on_cluster import perform_on
    from launcher.images.build.remote import perform

    made: ImageOutcome = perform_on(
        parsed, cluster, perform, (request, store.root), name="image", tasks=store.root / "tasks", report=report
    )
    return made
