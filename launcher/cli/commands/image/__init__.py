"""Make, keep and look at images: squashfs files that tasks run in.

  launcher image build                               the project's Dockerfile
  launcher image import nvcr.io#nvidia/nemo:26.08    from a registry, an engine, a directory, a tarball
  launcher image list | inspect NAME | verify NAME | gc

What is made lands in the store of the cluster's profile; `--image NAME` of run and submit finds it there.
"""

import argparse
from importlib import import_module

ACTIONS = {
    "build": "build a Dockerfile and put the image into the store",
    "import": "import from a registry, a local engine, a directory, a tarball or a squashfs file",
    "list": "list the images of the store",
    "inspect": "show what an image holds: versions, plugins, environment, source, users",
    "verify": "check that a file is an image, whole, and of the cluster's architecture (status 2 if not)",
    "gc": "remove images that are no longer used",
}

_MODULES = {"build": "make", "import": "make", "list": "show", "inspect": "show", "verify": "show", "gc": "gc"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser for each action."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, text in ACTIONS.items():
        module = import_module(f"launcher.cli.commands.image.{_MODULES[action]}")
        own = actions.add_parser(
            action,
            help=text,
            description=getattr(module, f"{action}_".upper() + "HELP", text),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        getattr(module, f"add_{action}")(own)
        own.add_argument("--json", action="store_true", help="print one JSON object")


def main(parsed: argparse.Namespace) -> int:
    """Run one action."""
    module = import_module(f"launcher.cli.commands.image.{_MODULES[parsed.action]}")
    run = getattr(module, f"run_{parsed.action}")
    return int(run(parsed))
