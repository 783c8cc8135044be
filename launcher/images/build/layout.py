r"""The files that enroot expects in an image: /etc/environment, /etc/rc and /etc/fstab.

Facts, from enroot's `doc/image-format.md`, `src/docker.sh` and `src/common.sh`:

    /etc/environment  NAME=value lines. enroot replaces `${NAME}` by the host's value, inside quotes too; drops lines
                      that are not an assignment, and names that start with ENROOT_; removes one pair of quotes
                      around a value, as pam_env(8) does. There is no escape: a line break cannot be written
    /etc/rc           run by /bin/sh with the command as its arguments: working directory, entrypoint, command
    /etc/fstab        mounts; a volume of the image is a directory that is bound onto itself, to be writable

mksquashfs takes these files from the launcher's workspace and leaves the tree alone: pseudo files, see mksquashfs(1).
"""

import re
import shlex
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from launcher._util.errors import ImageError

ENVIRONMENT, RC, FSTAB = "etc/environment", "etc/rc", "etc/fstab"
_RC_LOCAL = "etc/rc.local"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST_VALUE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_LAYOUT_DIRECTORY = "layout"


@dataclass(frozen=True)
class ImageConfig:
    """The configuration of an image: the `config` of the OCI image specification."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    working_directory: str = "/"
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str | None = None
    """As engines write it: amd64, arm64."""


def parse_config(document: Mapping[str, Any]) -> ImageConfig:
    """Read one image of `docker|podman image inspect`, or the OCI config; they differ in upper and lower case.

    Raises ImageError if it is neither.
    """
    top = {name.lower(): value for name, value in document.items()}
    config = top.get("config") or {}
    if not isinstance(config, Mapping):
        raise ImageError("the engine's description of the image has no config")

    def texts(name: str) -> tuple[str, ...]:
        value = config.get(name) or ()
        # Long ago a command could be one string, for a shell.
        return ("/bin/sh", "-c", value) if isinstance(value, str) else tuple(str(each) for each in value)

    return ImageConfig(
        env=texts("Env"),
        entrypoint=texts("Entrypoint"),
        command=texts("Cmd"),
        working_directory=str(config.get("WorkingDir") or "/"),
        volumes=tuple(sorted(config.get("Volumes") or {})),
        labels={str(name): str(value) for name, value in (config.get("Labels") or {}).items()},
        architecture=top.get("architecture"),
    )


@dataclass(frozen=True)
class Layout:
    """Files and directories that an image gets besides those of its tree; `warnings` says what could not be kept."""

    files: Mapping[str, str]
    directories: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def replaced(self, root: Path) -> list[str]:
        """Return those of `files` that the tree has, too, and that mksquashfs has to leave out."""
        return [name for name in self.files if _is_there(root / name)]

    def pseudo_files(self, root: Path, workspace: Path) -> Path:
        """Write the files, and pseudo definitions for mksquashfs, into `workspace`; return the file of the latter."""
        lines = []
        made: set[PurePosixPath] = set()
        for directory in (*self.directories, "/etc"):
            for path in _missing(root, directory):
                if path not in made:
                    made.add(path)
                    lines.append(f"{_quoted(path)} d 755 0 0")
        files = workspace / _LAYOUT_DIRECTORY
        files.mkdir(exist_ok=True)
        for number, (name, text) in enumerate(sorted(self.files.items())):
            (files / str(number)).write_text(text, errors="surrogateescape")
            # The last word is a command of mksquashfs's own; names of ours, so there is nothing to quote.
            lines.append(f"{name} f 644 0 0 cat {_LAYOUT_DIRECTORY}/{number}")
        definitions = workspace / f"{_LAYOUT_DIRECTORY}.pseudo"
        definitions.write_text("".join(f"{line}\n" for line in lines))
        return definitions


def layout_of(config: ImageConfig, source: str) -> Layout:
    """Return the layout that enroot's own import makes of an image's config; a comment of /etc/rc names `source`."""
    lines, warnings = environment_lines(config.env)
    volumes = [
        f"${{ENROOT_ROOTFS}}{_field(path)} {_field(path)} none x-create=dir,bind,rw,nosuid,nodev\n"
        for path in config.volumes
    ]
    files = {
        ENVIRONMENT: "".join(lines),
        RC: rc_script(config, source),
        FSTAB: "".join(volumes),
        _RC_LOCAL: _RC_LOCAL_TEXT,
    }
    return Layout(files, (config.working_directory,), tuple(warnings))


def bare_layout(root: Path) -> Layout:
    """Return the layout for a root file system without a config: of the three files its own are kept, others made.

    An /etc/fstab is kept only beside an /etc/rc, which no distribution has: a distribution's own would have enroot
    mount the disks of the machine that it was made on.
    """
    files = {}
    if not _is_there(root / ENVIRONMENT):
        files[ENVIRONMENT] = f"{_PATH}\n"
    if not _is_there(root / RC):
        files |= {RC: rc_script(ImageConfig(), "a root file system"), FSTAB: ""}
    return Layout(files)


def environment_lines(env: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the lines of /etc/environment for an image's config, and warnings of what could not be written."""
    lines, warnings = [], []
    for assignment in env:
        name, _, value = assignment.partition("=")
        if not _NAME.fullmatch(name):
            warnings.append(f"the variable {name!r} of the image is left out: shells do not allow that name")
        elif name.startswith("ENROOT_"):
            warnings.append(f"the variable {name} of the image is left out: enroot drops its own names")
        elif "\n" in value or "\r" in value:
            warnings.append(f"the variable {name} of the image is left out: its value has a line break")
        else:
            if _HOST_VALUE.search(value):
                warnings.append(f"the variable {name} of the image holds ${{...}}: enroot takes that from the host")
            lines.append(f"{name}={_readable(value)}\n")
    return lines, warnings


def rc_script(config: ImageConfig, source: str) -> str:
    """Return the script that starts a container: working directory, then entrypoint with the command or arguments."""
    entrypoint = "".join(f"{shlex.quote(word)} " for word in config.entrypoint)
    command = config.command or (() if config.entrypoint else ("/bin/sh",))
    directory = shlex.quote(config.working_directory)
    labels = "".join(f"# {_one_line(name)} {_one_line(value)}\n" for name, value in sorted(config.labels.items()))
    return (
        f"# enroot-provenance: {_one_line(source)}\n{labels}\n"
        "# Where the image wants its programs to start; made here if a mount hides it.\n"
        f"[ -d {directory} ] || mkdir -p {directory} 2>/dev/null\n"
        f"cd {directory} || exit 1\n"
        "unset OLDPWD\n"
        "[ ! -s /etc/rc.local ] || . /etc/rc.local\n"
        f'[ "$#" -eq 0 ] || exec {entrypoint}"$@"\n'
        f"exec {entrypoint}{shlex.join(command)}\n"
    )


_RC_LOCAL_TEXT = "# /etc/rc reads this file before it starts the command of the container.\n"


def _readable(value: str) -> str:
    """Return `value` so that a reader which strips blanks and a pair of quotes gets it back."""
    quoted = value[:1] in ("'", '"') or value[-1:] in ("'", '"')
    return f'"{value}"' if value != value.strip() or quoted else value


def _one_line(text: str) -> str:
    return re.sub(r"[\r\n]+", " ", text)


def _field(path: str) -> str:
    """Return a path as fstab(5) writes it."""
    return re.sub(r"[ \t\n\\]", lambda match: f"\\{ord(match[0]):03o}", path)


def _quoted(path: PurePosixPath) -> str:
    """Return a path as pseudo definitions write it: blanks and backslashes escaped."""
    return re.sub(r"([\s\\])", r"\\\1", str(path))


def _is_there(path: Path) -> bool:
    """Return whether something has this name; what cannot be looked at has not."""
    try:
        path.lstat()
    except OSError:
        return False
    return True


def _missing(root: Path, directory: str) -> list[PurePosixPath]:
    """Return the directories to make for `directory`, from the top; symbolic links stay inside `root`."""
    place, todo, missing = PurePosixPath(), list(PurePosixPath(directory).parts), list[PurePosixPath]()
    for _ in range(100):  # a circle of symbolic links ends somewhere, too
        if not todo:
            break
        part = todo.pop(0)
        if part == "/":
            place = PurePosixPath()
            continue
        if part == "..":
            place = place.parent
            continue
        found = root / place / part
        if missing or not _is_there(found):
            place /= part
            missing.append(place)
        elif stat.S_ISLNK(found.lstat().st_mode):
            todo = [*PurePosixPath(found.readlink()).parts, *todo]
        else:
            place /= part
    return missing
