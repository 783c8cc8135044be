"""Commands of enroot.

Facts, from enroot's `enroot.in`, `src/runtime.sh` and `src/docker.sh`: every error has exit status 1 and a line
`[ERROR] ...` on standard error, except those of curl, mksquashfs and unsquashfs, which come through as they are;
settings are environment variables, which count more than enroot.conf; `podman://` came with 3.4, `digest` and names as
docker writes them with 4.0. It refuses to overwrite a file. Importing from an engine (`dockerd://`, `podman://`) is not
used: with podman it leaves a container behind, because its clean-up calls docker whatever the engine is.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import CommandError
from launcher._util.shell import OnText, OnTick, Result, Shell
from launcher.images.build.engines import ask
from launcher.images.build.pack import BLOCK_BYTES, Compression, processors
from launcher.images.store.mounts import mount_of

Version = tuple[int, ...]

DIGEST_SINCE: Version = (4, 0)

_TRANSFER_RETRIES = "2"
"""curl's own, for each file: enroot's default is 0."""


@dataclass(frozen=True)
class Settings:
    """Settings of enroot, given in its environment; None leaves one as the site and the user have it."""

    temporary: Path | None = None
    """Where it unpacks: several times the size of the image."""

    compression: Compression | None = None
    processors: int | None = None
    allow_http: bool = False
    """Plain HTTP: only for registries of this machine."""

    def environment(self, inherited: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the whole environment for enroot."""
        env = dict(os.environ if inherited is None else inherited)
        if self.temporary is not None:
            env["ENROOT_TEMP_PATH"] = str(self.temporary)
        if self.compression is not None:
            options = (*self.compression.options, "-b", str(BLOCK_BYTES), "-exit-on-error")
            env["ENROOT_SQUASH_OPTIONS"] = " ".join(options)
        if self.processors is not None:
            env["ENROOT_MAX_PROCESSORS"] = str(self.processors)
        # Never inherited: a user's setting for one registry must not send another's password in plain text.
        env.pop("ENROOT_ALLOW_HTTP", None)
        if self.allow_http:
            env["ENROOT_ALLOW_HTTP"] = "yes"
        env.setdefault("ENROOT_TRANSFER_RETRIES", _TRANSFER_RETRIES)
        return env


def settings_for(workspace: Path, compression: Compression, *, allow_http: bool) -> Settings:
    """Return the settings for an import into a workspace of the store.

    enroot unpacks in the workspace, where the free space was checked, unless that is not a local file system (overlayfs
    and whiteouts do not work on most network file systems) or the user has set ENROOT_TEMP_PATH.
    """
    mount = mount_of(workspace)
    here = mount is not None and mount.is_local and mount.kind not in ("overlay", "tmpfs", "ramfs")
    own = here and not os.environ.get("ENROOT_TEMP_PATH")
    return Settings(workspace if own else None, compression, processors(), allow_http)


def version(shell: Shell) -> Version:
    """Return the version of enroot. Raises MissingProgramError."""
    words = ask(["enroot", "version"], shell).stdout
    found = re.search(r"\d+(\.\d+)+", words)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def import_image(
    uri: str,
    output: Path,
    shell: Shell,
    *,
    architecture: str | None = None,
    settings: Settings | None = None,
    on_text: OnText | None = None,
    on_tick: OnTick | None = None,
) -> Result:
    """Import an image of a registry to a new squashfs file; `architecture` as `uname -m` prints it."""
    options = ["--arch", architecture] if architecture else []
    argv = ["enroot", "import", *options, "--output", str(output), "--", uri]
    return shell.stream(argv, on_text, env=(settings or Settings()).environment(), on_tick=on_tick)


def digest(
    uri: str,
    shell: Shell,
    *,
    architecture: str | None = None,
    settings: Settings | None = None,
    on_tick: OnTick | None = None,
) -> str:
    """Return the digest of the manifest that an import would fetch now; enroot 4.0 and later."""
    options = ["--arch", architecture] if architecture else []
    env = (settings or Settings()).environment()
    words = ask(["enroot", "digest", *options, "--", uri], shell, env=env, timeout_s=120, on_tick=on_tick).stdout
    found = re.search(r"sha256:[0-9a-f]{64}", words)
    if found is None:
        raise CommandError(f"enroot digest printed no digest for {uri}: {words.strip()[:200]}")
    return found[0]
