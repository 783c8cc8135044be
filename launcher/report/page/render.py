"""From sections to one file that needs nothing else: Plotly's script inside, no request to anybody."""

import base64
import hashlib
import re
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import __version__
from launcher._util.errors import DiskError, RequestError
from launcher._util.resources import resource
from launcher._util.shell import Shell
from launcher.report.page.content import Section, Subject
from launcher.report.page.overview import moment
from launcher.report.page.sections import sections_of
from launcher.rundir import RunDirectory
from launcher.rundir.run_directory import write_atomically

if TYPE_CHECKING:
    import jinja2

# Colours and cursor movements of terminals, then whatever else no text holds.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def write_page(run: RunDirectory, shell: Shell, output: Path | None = None, *, now: float | None = None) -> Path:
    """Make the page of a run, whole or not at all, and return where it is: `output`, or `page.html` in its directory.

    Raises RequestError without Plotly or for a place that is no file, DiskError where it cannot be written.
    """
    path = (output or run.page).resolve()
    if path.exists() and not path.is_file():
        raise RequestError("this is no file", where=str(path), hint="--output names the file of the page.")
    plotly = plotly_js()
    subject = Subject(run, shell, time.time() if now is None else now)
    title = f"{run.path.parent.name}/{run.path.name}"
    html = render(title, sections_of(subject), made=moment(subject.now), plotly=plotly)
    try:
        write_atomically(path, html)
    except DiskError as error:
        hint = "--output FILE writes the page to another place."
        raise DiskError(error.message, where=error.where, hint=hint) from error
    return path


def plotly_js() -> str:
    """Plotly's script, as its package ships it. Raises RequestError where that is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise RequestError(
            "a page needs plotly, which is not installed", hint="pip install 'megatron-launcher[analysis]'"
        ) from None
    # HTML looks for the end of a script, and for comments, inside its strings as well; and it knows one line end only.
    script = re.sub(r"<(?=/script|!--)", r"<\\", str(get_plotlyjs()), flags=re.IGNORECASE)
    return script.replace("\r\n", "\n").replace("\r", "\n")


def render(title: str, sections: Sequence[Section], *, made: str, plotly: str) -> str:
    """The text of the page."""
    import markupsafe

    draw = (resource("templates") / "page.js").read_text(encoding="utf-8")
    has_plots = any(block.kind == "plot" for section in sections for block in section.blocks)
    scripts = [plotly, draw] if has_plots else []
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            sections=sections,
            made=made,
            version=__version__,
            policy=policy(scripts),
            # The two texts that are ours: everything else is escaped.
            scripts=[markupsafe.Markup(script) for script in scripts],  # noqa: S704
        )
    )


def policy(scripts: Sequence[str]) -> str:
    """What a browser may do for the page: run these scripts and no other, ask nobody for anything."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in hashes) or "'none'"
    rules = {
        "default-src": "'none'",
        "script-src": allowed,
        # Plotly sets styles of what it draws, and makes pictures for those who save a plot.
        "style-src": "'unsafe-inline'",
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


@cache
def _environment() -> "jinja2.Environment":
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource("templates")),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # What is no JSON (NaN) is an error here, not a page whose plots stay empty.
    made.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return made


def _printable(value: object) -> object:
    """Text as a page can hold it; what the template itself writes is left alone."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _ESCAPES.sub("", value))
    return text.encode("utf-8", "replace").decode("utf-8")
