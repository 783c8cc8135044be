"""Rendering a page: one HTML file that contains Plotly's script and makes no requests."""

import base64
import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from launcher._util.errors import DiskError, RequestError
from launcher._util.resources import resource
from launcher._util.shell import Shell
from launcher._util.templates import template_environment
from launcher._util.version import __version__
from launcher.report.page.content import Cell, Section, Subject, Table
from launcher.report.page.overview import format_time
from launcher.report.page.sections import sections_of
from launcher.rundir import RunDirectory
from launcher.rundir.run_directory import write_atomically

if TYPE_CHECKING:
    import jinja2

# Colours and cursor movements of terminals, then other control characters.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def write_page(run: RunDirectory, shell: Shell, output: Path | None = None, *, now: float | None = None) -> Path:
    """Write the page of a run atomically; return its path: `output`, else `page.html` in the run directory.

    Raises RequestError if Plotly is not installed or the path is not a file, DiskError if it cannot be written.
    """
    path = (output or run.page).resolve()
    if path.exists() and not path.is_file():
        raise RequestError("this is not a file", where=str(path), hint="--output names the file of the page.")
    plotly = plotly_js()
    subject = Subject(run, shell, time.time() if now is None else now)
    title = f"{run.path.parent.name}/{run.path.name}"
    html = render(title, sections_of(subject), made=format_time(subject.now), plotly=plotly)
    try:
        write_atomically(path, html)
    except DiskError as error:
        hint = "--output FILE writes the page elsewhere."
        raise DiskError(error.message, where=error.where, hint=hint) from error
    return path


def plotly_js() -> str:
    """Return Plotly's script from its package. Raises RequestError if that is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise RequestError(
            "a page needs plotly, which is not installed",
            hint="Install the launcher with its extra `analysis` (launcher help install).",
        ) from None
    # HTML recognises the end of a script, and comments, inside strings as well; and it has only one line end.
    script = re.sub(r"<(?=/script|!--)", r"<\\", str(get_plotlyjs()), flags=re.IGNORECASE)
    return script.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True)
class Served:
    """How a page refers to the rest of a served site: relative addresses of its root, and of the list of runs."""

    root: str
    version: str
    """Changes whenever the page would."""
    home: str = ""


def render(
    title: str, sections: Sequence[Section], *, made: str, plotly: str = "", served: Served | None = None
) -> str:
    """Return the HTML of a page; `made` is the time at which it was created, in words.

    It contains its scripts, unless it is `served`: then it refers to them, and the server states the policy.
    """
    import markupsafe

    draw = (resource("templates") / "page.js").read_text(encoding="utf-8")
    blocks = [block for section in sections for block in section.blocks]
    has_plots = any(block.kind == "plot" for block in blocks)
    scripts = [plotly] if has_plots else []
    if has_plots or any(isinstance(block, Table) and block.sortable for block in blocks):
        scripts.append(draw)
    scripts = [] if served else scripts
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            sections=sections,
            made=made,
            version=__version__,
            policy="" if served else policy(scripts),
            served=served,
            # Only these two scripts are trusted: everything else is escaped.
            scripts=[markupsafe.Markup(script) for script in scripts],  # noqa: S704
        )
    )


def policy(scripts: Sequence[str]) -> str:
    """Return the Content-Security-Policy of a page: it may run these scripts, and make no requests."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in hashes) or "'none'"
    rules = {
        "default-src": "'none'",
        "script-src": allowed,
        # Plotly sets styles in its plots, and creates images when a plot is saved.
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


@cache
def _environment() -> "jinja2.Environment":
    pages = template_environment(_printable, autoescape=True)
    pages.tests["special"] = lambda value: isinstance(value, Cell)
    # A value that JSON cannot hold (NaN) is an error here, instead of a page whose plots stay empty.
    pages.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return pages


def _printable(value: object) -> object:
    """Return text without control characters; trusted markup stays as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _ESCAPES.sub("", value))
    return text.encode("utf-8", "replace").decode("utf-8")
