"""Containers that the launcher makes in an engine, and removes again.

Two kinds: those made to read an image's files, under a name of the launcher's; and those in which podman and buildah
run the steps of a Dockerfile. An interrupted `podman build` leaves the latter behind under a random name. So each build
adds a host name to the /etc/hosts of its steps, which is kept with the container (`buildah.json`) and not in the image.

Both names hold the process that made them: the containers of a killed launcher are removed by the next one on this
machine. A container whose build was killed before buildah.json was written has no known owner, and stays.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from launcher._util.errors import LauncherError
from launcher._util.line_splitter import LineSplitter
from launcher._util.shell import Shell
from launcher.contract.events import ProgressListener
from launcher.images.build import engines
from launcher.images.build.engines import Engine, EngineImage
from launcher.images.store.owner import Owner

_EXPORT = "launcher-export"
_BUILD = "launcher-build"
_MARK = re.compile(rf"{_BUILD}_[A-Za-z0-9._-]+")


@contextlib.contextmanager
def container_of(engine: Engine, image: EngineImage, shell: Shell) -> Iterator[str]:
    """Yield the name of a container of the image, which never runs. Raises CommandError."""
    name = _name_for(_EXPORT, Owner.of_this_process())
    identity = image.id.removeprefix("sha256:") if engine.name != "docker" else image.id
    create = ["from", "--pull-never", "--name", name, identity]
    if engine.name != "buildah":
        # The engine wants a command, also where the image has none.
        create = ["create", "--name", name, identity, "/bin/sh"]
    try:
        shell.stream(engine.argv(*create))
        yield name
    finally:
        _remove(engine, name, shell)


@contextlib.contextmanager
def marked_build(engine: Engine, shell: Shell) -> Iterator[list[str]]:
    """Yield options for a build, whose containers are removed if the block is left by an exception."""
    mark = _name_for(_BUILD, Owner.of_this_process())
    try:
        yield [] if engine.name == "docker" else ["--add-host", f"{mark}:127.0.0.1"]
    except BaseException:
        for container, found in _marks(engine).items():
            if found == mark:
                _remove(engine, container, shell)
        raise


def remove_abandoned(engine: Engine, shell: Shell) -> list[str]:
    """Remove the containers that launchers of this machine left when they were killed; return their names or IDs."""
    words = ["containers", "--all", "--format", "{{.ContainerName}}"]
    if engine.name != "buildah":
        words = ["ps", "--all", "--filter", f"name={_EXPORT}", "--format", "{{.Names}}"]
    names = engines.ask(engine.argv(*words), shell, check=False).stdout.split()
    owned = {name: name for name in names} | _marks(engine)
    me = Owner.of_this_process()
    gone = [container for container, name in owned.items() if _owner_is_gone(name, me)]
    for container in gone:
        _remove(engine, container, shell)
    return gone


def export(engine: Engine, image: EngineImage, root: Path, shell: Shell, report: ProgressListener) -> None:
    """Unpack the files of an image into the new directory `root`. Raises CommandError."""
    report.stage(f"unpacking the image of {engine.name}")
    root.mkdir()
    with container_of(engine, image, shell) as name, _files_of(engine, name, shell) as source:
        lines = LineSplitter(report.line)
        shell.stream(engines.untar_command(root, "-"), lines, source=source)
        lines.end()
    engines.make_readable(root, shell)


@contextlib.contextmanager
def _files_of(engine: Engine, name: str, shell: Shell) -> Iterator[list[str]]:
    """Yield the command that writes the container's files as a tar archive to its standard output."""
    if engine.name != "buildah":
        yield engine.argv("export", name)
    elif os.geteuid() == 0:
        mounted = engines.ask(engine.argv("mount", name), shell).stdout.strip()
        try:
            yield ["tar", "-C", mounted, "-c", "-f", "-", "."]
        finally:
            shell.stream(engine.argv("umount", name), check=False)
    else:
        # It is mounted only inside the user's own namespace; unshare gives the path in a variable.
        yield engine.argv("unshare", "--mount", f"ROOT={name}", "sh", "-c", 'exec tar -C "$ROOT" -c -f - .')


def _marks(engine: Engine) -> dict[str, str]:
    """Return the containers of builds of the launcher: mark by ID."""
    found = {}
    for state in engine.graph_root.glob("*-containers/*/userdata/buildah.json") if engine.graph_root else ():
        with contextlib.suppress(OSError):  # removed since the listing, or another user's
            if match := _MARK.search(state.read_text(errors="replace")):
                found[state.parent.parent.name] = match[0]
    return found


def _remove(engine: Engine, container: str, shell: Shell) -> None:
    words = ["rm", container] if engine.name == "buildah" else ["rm", "--force", "--volumes", container]
    with contextlib.suppress(LauncherError):  # the next build on this machine tries again
        shell.stream(engine.argv(*words), check=False)


def _name_for(prefix: str, me: Owner) -> str:
    """Return a container's name: characters that engines allow, with the identity of the process that makes it."""
    host = re.sub(r"[^A-Za-z0-9.]", ".", me.host)
    namespace = re.sub(r"[^0-9]", "", me.pid_namespace)
    return f"{prefix}_{host}_{me.boot_id}_{namespace}_{me.pid}_{me.start_ticks}_{secrets.token_hex(3)}"


def _owner_is_gone(name: str, me: Owner) -> bool:
    parts, mine = name.split("_"), _name_for(_EXPORT, me).split("_")
    if parts[0] not in (_EXPORT, _BUILD) or len(parts) != len(mine) or parts[1:4] != mine[1:4]:
        return False
    if not (parts[4].isdigit() and parts[5].isdigit()):
        return False
    return replace(me, pid=int(parts[4]), start_ticks=int(parts[5])).has_ended(me) is True
