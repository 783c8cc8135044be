"""One command in an image on this machine, without unpacking it: for checks before a run, not for runs.

squashfuse mounts the image in a namespace of its own, so that nothing stays mounted after any end, and bubblewrap
starts the command in it. The root is a tmpfs with the image's directories in it, read-only; a directory of the image
that must hold a mount point which the image lacks is built entry by entry.

Run as a program (`python -m launcher.images.sandbox REQUEST COMMAND...`, a JSON object) this module mounts the image
and becomes bubblewrap. No command line shows the value of a variable of the run: bubblewrap reads them from a file in
memory.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

_PROGRAMS = ("unshare", "squashfuse", "bwrap")
_OWN = ("dev", "proc", "run", "sys", "tmp")
"""Directories at the top that every container gets new."""

_NAMESPACES = ("--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child")
"""When the command ends, its process namespace ends, and with it squashfuse and the mount."""

_DEFAULT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
"""Variables for an image that does not set them."""


def why_unavailable(architecture: str | None) -> str | None:
    """Return why no command can run here in an image of that architecture (`uname -m`); None where it can."""
    if architecture not in (None, platform.machine()):
        return f"the image is for {architecture}, and this machine is {platform.machine()}"
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not on the PATH"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    return None


@dataclass(frozen=True)
class SandboxRequest:
    """An image to enter, with mounts and environment."""

    image: str
    directory: str
    """An empty directory that the caller has made."""
    mounts: tuple[tuple[str, str], ...]
    """Sources with their targets, all of them read-only."""
    environment: tuple[tuple[str, str], ...]
    """The image's own variables; those of the run are this process's."""
    names: tuple[str, ...]
    """Names of the variables of the run."""


def argv(entry: SandboxRequest, command: Sequence[str]) -> list[str]:
    """Return the command line that runs `command` in an image; its environment holds the run's variables."""
    namespace = [shutil.which("unshare") or "unshare", *_NAMESPACES, "--"]
    return [*namespace, sys.executable, "-m", "launcher.images.sandbox", json.dumps(asdict(entry)), *command]


def layout(root: Path, targets: Iterable[str]) -> Iterator[str]:
    """Yield arguments of bwrap for the image at `root`, so that each of `targets` can be mounted."""
    wanted = {PurePosixPath(_resolved(root, target)) for target in targets}
    opened = {parent for target in wanted if not (root / target.relative_to("/")).exists() for parent in target.parents}
    yield from _lay_out(root, PurePosixPath("/"), opened)


def _lay_out(root: Path, directory: PurePosixPath, opened: set[PurePosixPath]) -> Iterator[str]:
    for entry in sorted(os.scandir(root / directory.relative_to("/")), key=lambda entry: entry.name):
        path = directory / entry.name
        if directory == PurePosixPath("/") and entry.name in _OWN:
            continue
        if entry.is_symlink():
            yield from ("--symlink", str(Path(entry.path).readlink()), str(path))
        elif entry.is_dir() and path in opened:
            yield from ("--dir", str(path))
            yield from _lay_out(root, path, opened)
        else:
            yield from ("--ro-bind", entry.path, str(path))


def _resolved(root: Path, target: str) -> str:
    """Return `target` with the image's own symbolic links followed (/lib may be usr/lib)."""
    path = PurePosixPath("/")
    for _ in range(40):  # Linux follows no more links than these
        parts = PurePosixPath(target).parts[1:]
        path = PurePosixPath("/")
        for number, part in enumerate(parts):
            here = root / path.relative_to("/") / part
            if here.is_symlink():
                link, rest = here.readlink(), parts[number + 1 :]
                target = os.path.normpath(PurePosixPath("/", path, link, *rest))
                break
            path /= part
        else:
            return str(path)
    return str(path)


def main(arguments: Sequence[str]) -> int:
    """Mount the image and become the command in it; return 3 if the image cannot be mounted."""
    request, *command = arguments
    entry = SandboxRequest(**json.loads(request))
    done = subprocess.run(["squashfuse", entry.image, entry.directory], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"squashfuse cannot mount {entry.image}: {done.stderr.strip()}", file=sys.stderr)
        return 3
    words = os.memfd_create("words", 0)
    os.write(words, "".join(f"{word}\0" for word in _words(entry, Path(entry.directory))).encode())
    os.lseek(words, 0, os.SEEK_SET)
    return os.execvp("bwrap", ["bwrap", "--args", str(words), *command])  # noqa: S606 - there is no shell in between


def _words(entry: SandboxRequest, root: Path) -> Iterator[str]:
    yield from ("--die-with-parent", "--tmpfs", "/", *layout(root, [target for _, target in entry.mounts]))
    yield from ("--dev", "/dev", "--proc", "/proc", "--ro-bind", "/sys", "/sys")
    yield from ("--tmpfs", "/tmp", "--tmpfs", "/run", "--chdir", "/tmp")  # noqa: S108 - the container's own
    for source, target in entry.mounts:
        yield from ("--ro-bind", source, target)
    for file in ("/etc/resolv.conf", "/etc/hosts"):
        if Path(file).exists() and (root / file[1:]).is_file():
            yield from ("--ro-bind", file, file)
    run = {name: os.environ[name] for name in entry.names if name in os.environ}
    yield "--clearenv"
    for name, value in {**_DEFAULT, **dict(entry.environment), **run}.items():
        yield from ("--setenv", name, value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
