"""Container runtimes: one module for each, and their registry.

A new runtime is a module here, its line in RUNTIMES, its templates, and its place in docs.

model   what a runtime is
pyxis   srun's plugin
enroot  called by enter.sh on each node
bwrap   bubblewrap, called by enter.sh on each node
none    the bare machine
"""

from collections.abc import Mapping

from launcher.runtimes.bwrap import BWRAP
from launcher.runtimes.enroot import ENROOT
from launcher.runtimes.model import ContainerRuntime
from launcher.runtimes.none import NONE
from launcher.runtimes.pyxis import PYXIS

RUNTIMES: Mapping[str, ContainerRuntime] = {each.name: each for each in (PYXIS, ENROOT, BWRAP, NONE)}
"""All runtimes by name, in the order in which help lists them."""

BARE = NONE

AUTOMATIC = "auto"
"""In place of a name: the first runtime that the cluster has where an image is named, else the bare machine."""

CONTAINERS: tuple[ContainerRuntime, ...] = tuple(each for each in RUNTIMES.values() if each.is_container)

UNMOUNTABLE = ",:"
"""Characters of a path that plans refuse for every container: most runtimes' lists of mounts cannot express them."""
