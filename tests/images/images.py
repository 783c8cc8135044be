"""A real Debian root file system, and squashfs images made of it with mksquashfs alone: nothing of the launcher's."""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.limits import seconds

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "megatron-launcher-tests"
_SUITE = "bookworm"
_PACKAGES = "python3"
# Device nodes cannot be unpacked by a normal user; what was left behind by the installation only takes space.
_EXCLUDED = ("dev/*", "proc/*", "sys/*", "run/*", "usr/share/doc/*", "usr/share/man/*", "usr/share/locale/*")

NEEDED = ("mmdebstrap", "mksquashfs", "unsquashfs")


def missing_programs() -> str | None:
    """Why there can be no images here; None if there can."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"needs {', '.join(missing)}: apt-get install mmdebstrap squashfs-tools" if missing else None


def cannot_run_aarch64() -> str | None:
    """Why programs for aarch64 cannot run here; None if they can, in any root file system."""
    try:
        entry = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").read_text()
    except OSError:
        entry = ""
    # With F the kernel has opened qemu already: an image does not need to have it.
    if "enabled" in entry and re.search(r"^flags: \w*F", entry, re.MULTILINE):
        return None
    return "needs qemu for aarch64: tools/test_packages.sh soak, as root"


def debian_root(architecture: str | None = None) -> Path:
    """A Debian root with python3 and bash: made once in about 20 s, then found in the cache. Not to be changed."""
    root = CACHE / "-".join([_SUITE, _PACKAGES, *([architecture] if architecture else [])])
    if root.is_dir():
        return root
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.is_dir():
            return root
        partial, archive = root.with_suffix(".partial"), root.with_suffix(".tar")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        # Signatures are checked with the keys of debian-archive-keyring, which mmdebstrap brings. It gives an ordinary
        # user files of other user ids; unpacked from an archive, all of them are the user's own.
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}"]
        argv += [f"--architectures={architecture}"] if architecture else []
        done = subprocess.run([*argv, _SUITE, str(archive)], capture_output=True, text=True, timeout=seconds(900))
        if done.returncode != 0:
            raise RuntimeError(f"mmdebstrap ended with status {done.returncode}:\n{done.stderr[-2000:]}")
        unpack = ["tar", "--extract", "--no-same-owner", f"--file={archive}", f"--directory={partial}"]
        subprocess.run([*unpack, "--exclude=./dev/*"], check=True, timeout=seconds(300))
        archive.unlink()
        partial.rename(root)
    return root


def small_image(
    file: Path, *, environment: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None
) -> Path:
    """Pack the Debian root into `file` (about 60 MB, 4 s), with /etc/environment and further text files in it."""
    over = file.with_name(f"{file.name}.tree")
    subprocess.run(["cp", "-a", "--reflink=auto", str(debian_root()), str(over)], check=True)
    lines = [f"{name}={value}\n" for name, value in (environment or {}).items()]
    (over / "etc" / "environment").write_text("".join(lines))
    for name, text in (files or {}).items():
        target = over / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    argv = ["mksquashfs", str(over), str(file), "-comp", "zstd", "-Xcompression-level", "1", "-all-root"]
    argv += ["-noappend", "-quiet", "-no-progress", "-wildcards", "-e", *_EXCLUDED]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(over)
    return file
