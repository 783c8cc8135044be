"""The guards of every Jinja environment: templates of this project, strict about undefined names."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from launcher._util.resources import resource

if TYPE_CHECKING:
    import jinja2


def template_environment(finalize: Callable[[object], object], *, autoescape: bool) -> "jinja2.Environment":
    """Return an environment for the project's templates. An undefined name raises jinja2.UndefinedError.

    `finalize` receives every value before it is written; `autoescape` escapes values for HTML.
    """
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource("templates")),
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=autoescape,  # noqa: S701 - false for bash, where `finalize` is the guard
    )
