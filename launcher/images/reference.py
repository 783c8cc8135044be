"""Names of images: as users write them, and as registries, enroot, CloudAI and the store name the same image.

The grammar is in `grammar.py`. Whether the first component of a name is a registry follows Docker: it is one if it has
a `.` or a `:` or is `localhost`; every other name lives on Docker Hub, below `library/` if it has one component only.
enroot's `#` ends the registry in every case (enroot `doc/cmd/import.md`).

Three schemes: `docker://` (a registry; the default), `dockerd://` and `podman://` (an image of the local engine).
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from launcher.images.grammar import (
    IDENTIFIER,
    Scheme,
    check_characters,
    check_path,
    is_registry,
    refuse,
    split_registry,
    split_scheme,
    split_tag,
    split_user_and_digest,
)

DOCKER_HUB: Final = "docker.io"

_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
_SQUASHFS_SUFFIXES = (".sqsh", ".squashfs", ".sqfs", ".sqf")
_ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")
_FILE_NAME_LIMIT = 255  # bytes: NAME_MAX of ext4, XFS, Lustre and NFS


@dataclass(frozen=True)
class Reference:
    """One image by name, with all defaults filled in."""

    scheme: Scheme
    """`docker`: in a registry. `dockerd`, `podman`: held by the engine of this machine."""

    user: str | None
    """The user whose credentials enroot uses at the registry; not part of the image's identity."""

    registry: str
    """Host and port in lower case; `docker.io` for Docker Hub; empty where an engine's image is named without one."""

    path: str
    """`library/debian`, `nvidia/nemo`; or, in an engine, the ID of an image: 64 hexadecimal digits."""

    tag: str | None
    """`latest` where neither tag nor digest was given; None with only a digest, or for an ID."""

    digest: str | None
    """`sha256:` and 64 hexadecimal digits; it decides, where a tag is given too."""

    @property
    def is_id(self) -> bool:
        """Return whether this is the ID of an image in the local engine."""
        return self.scheme != "docker" and self.tag is None

    @property
    def canonical(self) -> str:
        """Return the shortest text that `parse_reference` reads as the same image, Docker Hub and `latest` written out.

        `nvcr.io/nvidia/nemo:26.08`, `docker.io/library/debian:12`, `podman://localhost/mg:1`. Without the user.
        """
        scheme = "" if self.scheme == "docker" else f"{self.scheme}://"
        return f"{scheme}{self._name}{_suffix(self.tag, self.digest)}"

    @property
    def engine_name(self) -> str:
        """Return the name for docker, podman or buildah: the canonical text without a scheme."""
        return f"{self._name}{_suffix(self.tag, self.digest)}"

    @property
    def enroot_uri(self) -> str:
        r"""Return the name for `enroot import`: `docker://nvcr.io#nvidia/nemo:26.08`; in an #SBATCH line, `\#`.

        Always with `#`: enroot before 4.0 took everything before the first `/` for a path on Docker Hub. Docker Hub
        itself is left out: its API does not answer under the name docker.io. A tag beside a digest is left out: enroot
        ignores it (before 4.0 it takes no digest at all).
        """
        if self.scheme != "docker":
            return self.canonical
        user = f"{self.user}@" if self.user else ""
        registry = f"{self.registry}#"
        if self.registry == DOCKER_HUB:  # a first component with a dot would be read as a registry
            registry = "registry-1.docker.io#" if "." in self.path.split("/", 1)[0] else ""
        return f"docker://{user}{registry}{self.path}{_suffix(None if self.digest else self.tag, self.digest)}"

    @property
    def file_name(self) -> str:
        """Return the image's name in the store: `nvcr.io+nvidia+nemo+26.08.sqsh`.

        Different images have different names (the user is not part of an image). The characters
        are letters, digits and `. _ - + =`: none that pyxis, Slurm or enroot interpret (`: , # @ /`).
        Between `+`: registry, components, tag. `=` is the colon of a port; `++` comes before a digest, `+++` before one
        beside a tag; `++podman` marks an engine's image, except the plain `dockerd://megatron-lm:latest`, whose
        name is `megatron-lm+latest.sqsh`. A name over 255 bytes keeps its start and ends with a hash of the whole.
        """
        registry = f"{_file_registry(self.registry)}+" if self.registry else ""
        tag = f"+{self.tag}" if self.tag else ""
        digest = self.digest.removeprefix("sha256:") if self.digest else ""
        mark = f"{'+++' if self.tag else '++'}{digest}" if digest else ""
        if self.scheme != "docker" and (self.scheme == "podman" or self.registry or self.is_id):
            mark = f"++{self.scheme}"
        return _shortened(f"{registry}{self.path.replace('/', '+')}{tag}{mark}")

    @property
    def cloudai_name(self) -> str:
        """Return the file name of CloudAI's image cache: `nvcr.io_nvidia__nemo__26.02.00.sqsh`.

        Everything before the last component joined by `_`, then the last component and the tag, joined by `__`
        (CloudAI `src/cloudai/_core/installables/docker_image.py`). It is ambiguous (components may hold `_`) and may
        hold a `:`: used to look files up, never to name one. It is the name that CloudAI
        gives `REGISTRY#PATH`, and names on Docker Hub without registry and `library/`.
        """
        components = self._display_path.split("/")
        if self.registry and self.registry != DOCKER_HUB:
            components[0] = f"{self.registry}_{components[0]}"
        tag = self.digest.removeprefix("sha256:") if self.digest else self.tag or "notag"
        algorithm = "@sha256" if self.digest else ""
        beside = f":{self.tag}" if self.digest and self.tag else ""
        return f"{'_'.join(components[:-1])}__{components[-1]}{beside}{algorithm}__{tag}.sqsh".lstrip("_")

    @property
    def enroot_name(self) -> str:
        """Return the default file name of `enroot import`: `nvidia+nemo+26.08.sqsh` (enroot, `src/docker.sh`).

        The registry is lost, except in an engine's names. Used to look files up, never to name one.
        """
        if self.scheme != "docker":
            return f"{re.sub('[:/]', '+', self.engine_name)}.sqsh"
        return f"{self._display_path.replace('/', '+')}+{self.digest or self.tag}.sqsh"

    @property
    def _name(self) -> str:
        if not self.registry:
            return self.path
        return f"{self.registry}{'/' if is_registry(self.registry) else '#'}{self.path}"

    @property
    def _display_path(self) -> str:
        return self.path.removeprefix("library/") if self.registry == DOCKER_HUB else self.path


def parse_reference(text: str) -> Reference:
    """Parse the name of an image.

    Raises ImageError, which says which part is wrong and gives the right form.
    """
    check_characters(text)
    scheme, name = split_scheme(text)
    if name.lower().endswith(_SQUASHFS_SUFFIXES) or name.startswith(("/", "./", "../", "~")):
        refuse(
            text,
            "it is the path of a file, not the name of an image",
            "A file is given as a path: ./x.sqsh or /dir/x.sqsh.",
        )
    if scheme != "docker" and IDENTIFIER.fullmatch(name.removeprefix("sha256:")):
        return Reference(scheme, None, "", name.removeprefix("sha256:"), None, None)
    user, name, digest = split_user_and_digest(text, name)
    if scheme != "docker" and (user or digest):
        refuse(
            text,
            f"{'a user' if user else 'a digest'} has no meaning for an image of the local engine",
            f"Name it by tag or by its ID: {scheme}://megatron-lm:latest, {scheme}://IMAGE_ID (64 hexadecimal digits).",
        )
    registry, rest = split_registry(text, name)
    path, tag = split_tag(text, rest)
    return _checked(text, scheme, user, registry, path, tag, digest)


def looks_like_path(text: str) -> bool:
    """Return whether `text` means a file or directory: by its start (`/ ./ ../ ~`) or its suffix (.sqsh, .tar, ...)."""
    if "://" in text:
        return False
    starts = text in (".", "..", "~") or text.startswith(("/", "./", "../", "~"))
    return starts or text.lower().endswith((*_SQUASHFS_SUFFIXES, *_ARCHIVE_SUFFIXES))


def _checked(
    text: str, scheme: Scheme, user: str | None, registry: str | None, path: str, tag: str | None, digest: str | None
) -> Reference:
    if scheme == "docker":
        registry = DOCKER_HUB if registry is None or registry in _HUB_NAMES else registry
        if registry == DOCKER_HUB and "/" not in path:
            path = f"library/{path}"
        if IDENTIFIER.fullmatch(path.removeprefix("library/")):
            refuse(text, "64 hexadecimal digits are an image's ID", "An ID names an image of an engine: podman://ID.")
    check_path(text, registry or "", path)
    if not tag and not digest:
        tag = "latest"
    return Reference(scheme, user, registry or "", path, tag, digest)


def _suffix(tag: str | None, digest: str | None) -> str:
    return (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")


def _file_registry(registry: str) -> str:
    """Return host and port for a file's name: `=` for the colon, and after a host that only `#` makes a registry."""
    if registry.startswith("["):
        return "ip6" + registry[1:].replace("]:", "-").rstrip("]").replace(":", "=")
    return registry.replace(":", "=") if is_registry(registry) else f"{registry}="


def _shortened(stem: str) -> str:
    """Return `stem` with the suffix of an image, cut and marked with its hash where a file system would refuse it."""
    if len(f"{stem}.sqsh") <= _FILE_NAME_LIMIT:
        return f"{stem}.sqsh"
    mark = f"+=={hashlib.sha256(stem.encode()).hexdigest()[:32]}.sqsh"
    return stem[: _FILE_NAME_LIMIT - len(mark)] + mark
