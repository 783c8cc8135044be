"""A web server of the runs of this user."""

import os
from collections.abc import Sequence

from launcher._util.shell import LocalShell
from launcher.api.locate import find_run_root
from launcher.report.page.render import plotly_js
from launcher.report.server import RunSite, Server
from launcher.rundir.registry import known_roots


def make_server(
    *,
    run_root: str | None = None,
    everywhere: bool = False,
    host: str = "127.0.0.1",
    port: int = 0,
    allow_remote: bool = False,
    names: Sequence[str] = (),
) -> Server:
    """Return a server of the runs below the run root, or with `everywhere` below all run roots of this user.

    It is bound, and answers once its `serve_forever` is called; its `url` holds the token that it asks for. `names` are
    further names of this machine under which browsers reach it. Raises RequestError, DiskError.
    """
    plotly_js()  # refuses to start where it is not installed
    roots = [find_run_root(run_root), *(known_roots(os.environ) if everywhere else ())]
    site = RunSite(tuple(dict.fromkeys(root.resolve() for root in roots)), LocalShell())
    return Server(site, host, port, remote=allow_remote, names=names)
