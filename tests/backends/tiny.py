"""An image of bash and a few commands, small enough to be unpacked for every example of a property test."""

import re
import shutil
import subprocess
from pathlib import Path

PROGRAMS = ("bash", "env", "true", "cat")


def tiny_image(debian: Path, file: Path, environment: str = "") -> Path:
    """Pack those programs and their libraries from a Debian root into `file` (about 2 MB, 0.1 s)."""
    root = file.with_suffix(".tree")
    for name in PROGRAMS:
        copy(debian, root, f"/usr/bin/{name}")
    for library in sorted({found for name in PROGRAMS for found in libraries(f"/usr/bin/{name}", debian)}):
        copy(debian, root, library)
    (root / "bin").symlink_to("usr/bin")
    (root / "bin/sh").symlink_to("bash")
    for name in ("lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc").mkdir()
    (root / "etc/environment").write_text(environment)
    argv = ["mksquashfs", str(root), str(file), "-comp", "zstd", "-all-root", "-noappend", "-quiet", "-no-progress"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)
    return file


def copy(debian: Path, root: Path, path: str) -> None:
    """Copy one file, links followed, to the same place."""
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(debian / path.lstrip("/"), target)


def libraries(program: str, debian: Path) -> list[str]:
    """The shared libraries that a program of the root loads, below /usr."""
    loader = next(debian.glob("usr/lib*/ld-linux*.so.*"))
    argv = [
        str(loader),
        "--list",
        "--library-path",
        f"{next(debian.glob('usr/lib/*-linux-gnu'))}",
        f"{debian}{program}",
    ]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    found = [path.removeprefix(str(debian)) for path in re.findall(r"(/\S+) \(0x", listed)]
    inside = "/" + str(loader.relative_to(debian))
    return sorted(
        {inside, *(path for path in found if (debian / path.lstrip("/")).is_file() and "ld-linux" not in path)}
    )
