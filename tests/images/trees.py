"""Small root file systems for tests, and mksquashfs on them."""

import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from launcher._util.shell import LocalShell, Result

MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243}

needs_squashfs = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("mksquashfs", "unsquashfs")), reason="needs squashfs-tools"
)
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def tiny_elf(machine: str) -> bytes:
    """The header of a 64-bit little-endian program for `machine`: what the kernel looks at first."""
    identification = b"\x7fELF\x02\x01\x01" + bytes(9)
    return identification + struct.pack("<HHIQQQIHHHHHH", 3, MACHINES[machine], 1, 0, 64, 0, 0, 64, 56, 0, 64, 0, 0)


def make_tree(root: Path, files: Mapping[str, str | bytes], links: Mapping[str, str] | None = None) -> Path:
    """A directory with these files (`/` at their start or not), and links by path."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        place = root / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
    for name, target in (links or {}).items():
        place = root / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
    return root


def pack(root: Path, file: Path, *options: str) -> Path:
    """Pack `root` with mksquashfs."""
    argv = ["mksquashfs", str(root), str(file), "-noappend", "-quiet", "-no-progress", "-processors", "1", *options]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return file


@dataclass
class CountingShell(LocalShell):
    """The real thing, which remembers what was run; with `old`, unsquashfs answers as 4.4, without `-max-depth`."""

    old: bool = False
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, argv: Sequence[str], **options: object) -> Result:
        """See `Shell.run`."""
        self.asked.append(tuple(argv))
        if self.old and "-max-depth" in argv:
            return Result(tuple(argv), 1, "", "SYNTAX: unsquashfs [options] filesystem [directories or files]\n")
        return super().run(argv, **options)  # type: ignore[arg-type]
