"""From a plan to the bytes of its scripts, through Jinja templates that refuse what was not quoted."""

from launcher.script.render import render, scripts

__all__ = ["render", "scripts"]
