"""From a plan to the bytes of its scripts, through Jinja templates that refuse what was not quoted."""

from launcher.scripts.render import render, scripts

__all__ = ["render", "scripts"]
