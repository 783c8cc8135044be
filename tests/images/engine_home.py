"""podman and buildah for tests: with a storage of their own, and a base image that was made here."""

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.limits import seconds

BASE = "localhost/launcher-test-base:1"

STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{home}/graph"
rootless_storage_path = "{home}/graph"
runroot = "{home}/run"
[storage.options.overlay]
skip_mount_home = "true"
"""

_PROGRAMS = (
    "dash",
    "bash",
    "cat",
    "ls",
    "mkdir",
    "sleep",
    "env",
    "id",
    "touch",
    "chmod",
    "ln",
    "pwd",
    "test",
    "rm",
    "tar",
)
_LIBRARIES = ("libc.so.6", "libtinfo.so.6", "libselinux.so.1", "libpcre2-8.so.0", "libacl.so.1", "libattr.so.1")


def missing_engine() -> str | None:
    missing = [name for name in ("podman", "buildah", "mksquashfs", "unsquashfs") if shutil.which(name) is None]
    return f"needs {', '.join(missing)}: apt-get install podman buildah squashfs-tools" if missing else None


def slim_root(debian: Path, root: Path) -> Path:
    """A root file system with a shell and a few programs of Debian's: 10 MB."""
    for directory in (
        "usr/bin",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib64",
        "etc",
        "tmp",
        "dev",
        "proc",
        "sys",
        "run",
        "root",
    ):
        (root / directory).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    for name in _PROGRAMS:
        shutil.copy2(debian / "usr/bin" / name, root / "usr/bin" / name)
    (root / "usr/bin/sh").symlink_to("dash")
    for directory, name in [
        ("usr/lib", "lib64/ld-linux-x86-64.so.2"),
        *(("usr/lib/x86_64-linux-gnu", each) for each in _LIBRARIES),
    ]:
        source = (debian / directory / name) if directory != "usr/lib" else debian / "usr" / name
        target = (root / directory / name) if directory != "usr/lib" else root / "usr" / name
        if source.exists():
            shutil.copy2(source.resolve(), target)
    (root / "etc/os-release").write_text("ID=test\n")
    (root / "etc/fstab").write_text("# UNCONFIGURED\nUUID=1 / ext4 errors=remount-ro 0 1\n")
    return root


@dataclass(frozen=True)
class EngineHome:
    """Where the engines keep their images in tests."""

    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def podman(self, *words: str, text: str | None = None) -> str:
        env = {**os.environ, **self.environment}
        done = subprocess.run(
            ["podman", *words], input=text, capture_output=True, text=True, env=env, timeout=seconds(120)
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def images(self) -> set[str]:
        """ID and names of each image."""
        return set(
            self.podman("images", "--all", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}").splitlines()
        )

    def names(self) -> set[str]:
        """Those that have a name."""
        return {line for line in self.images() if not line.endswith("<none>:<none>")}

    def containers(self) -> set[str]:
        return set(
            self.podman("ps", "--all", "--external", "--no-trunc", "--format", "{{.ID}} {{.Names}}").splitlines()
        )

    def unmount(self) -> None:
        """Unmount what builds that were killed left mounted: their containers cannot be asked for it."""
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in reversed(mounted):
            if Path(path).is_relative_to(self.directory):
                subprocess.run(["umount", "--lazy", path], check=True, timeout=seconds(60))

    def volumes(self) -> set[str]:
        return set(self.podman("volume", "ls", "--quiet").splitlines())


def make_home(directory: Path) -> EngineHome:
    """An empty storage with an image BASE of the root in `directory/root`."""
    conf = directory / "storage.conf"
    conf.write_text(STORAGE.format(home=directory))
    containers = directory / "containers.conf"
    containers.write_text(f'[engine]\nvolume_path = "{directory}/volumes"\n')
    environment = {
        "CONTAINERS_STORAGE_CONF": str(conf),
        "CONTAINERS_CONF": str(containers),
        "BUILDAH_ISOLATION": "chroot",
        "ENROOT_CACHE_PATH": str(directory / "enroot/cache"),
        "ENROOT_DATA_PATH": str(directory / "enroot/data"),
        "ENROOT_RUNTIME_PATH": str(directory / "enroot/run"),
        "ENROOT_CONFIG_PATH": str(directory / "enroot/config"),
        "ENROOT_TRANSFER_RETRIES": "0",
    }
    return EngineHome(directory, environment)
