"""What compressing an image costs and saves: size, time to pack, time to unpack, as multiples of enroot's own default.

    python benchmarks/image_compression.py [ROOT] [--rounds 2] [--only NAME ...]

ROOT is an unpacked root file system. Without one, a stand-in for a training image is made of hard links: the Debian
root that the tests use, with the site-packages of this Python in it (--leave-out takes parts of them away).

Every round packs and unpacks with each way in turn, so that what else the machine does meets all of them. Shown are the
smallest of the rounds, with their spread: on a shared machine the shortest time is the one least disturbed. CPU time
is user and system time over all processors. Before it is unpacked, the image is dropped from the page cache; what is
unpacked goes to --unpack-to (/dev/shm keeps the disk out of the figure, as nodes with ENROOT_DATA_PATH in memory do).
"""

import argparse
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
REFERENCE = "enroot's default"
_BLOCK_1M = ("-b", "1M")

# Name, and mksquashfs' options. The block is 128 KiB where nothing else is said: mksquashfs' own default.
WAYS: dict[str, tuple[str, ...]] = {
    # ENROOT_SQUASH_OPTIONS in enroot's conf/enroot.conf.in, 4.1.2: data blocks are not compressed, the rest is.
    REFERENCE: ("-comp", "lzo", "-noD", "-exit-on-error"),
    "none": ("-noI", "-noD", "-noF", "-noX"),
    "none, 1M": ("-noI", "-noD", "-noF", "-noX", *_BLOCK_1M),
    "lz4": ("-comp", "lz4"),
    "lz4, 1M": ("-comp", "lz4", *_BLOCK_1M),
    "lz4 -Xhc": ("-comp", "lz4", "-Xhc"),
    "lzo": ("-comp", "lzo"),
    "gzip": ("-comp", "gzip"),
    "zstd 1": ("-comp", "zstd", "-Xcompression-level", "1"),
    "zstd 1, 1M": ("-comp", "zstd", "-Xcompression-level", "1", *_BLOCK_1M),
    "zstd 3": ("-comp", "zstd", "-Xcompression-level", "3"),
    "zstd 3, 1M": ("-comp", "zstd", "-Xcompression-level", "3", *_BLOCK_1M),
    "zstd 6, 1M": ("-comp", "zstd", "-Xcompression-level", "6", *_BLOCK_1M),
    "zstd 9, 1M": ("-comp", "zstd", "-Xcompression-level", "9", *_BLOCK_1M),
    "zstd 15, 1M": ("-comp", "zstd", "-Xcompression-level", "15", *_BLOCK_1M),
}


@dataclass
class Found:
    """What was measured of one way: bytes, and (wall, CPU) seconds of every round."""

    size: int = 0
    pack: list[tuple[float, float]] = field(default_factory=list)
    unpack: list[tuple[float, float]] = field(default_factory=list)


def seconds(argv: Sequence[str]) -> tuple[float, float]:
    """Wall-clock and CPU seconds of a program; a failure ends the benchmark with its words."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(argv)} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def forget(file: Path) -> None:
    """Drop a file from the page cache: written out first, since only clean pages can be dropped."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm(root: Path) -> None:
    """Read the whole tree once, so that the first way does not pay for the disk."""
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as handle:
                    while handle.read(1 << 22):
                        pass


def stand_in(scratch: Path, left_out: Sequence[str]) -> Path:
    """Make a tree like a training image: Debian with Python, this Python's packages, as hard links if possible."""
    sys.path.insert(0, str(HERE))
    from tests.images.images import debian_root, missing_programs

    if (reason := missing_programs()) is not None:
        sys.exit(f"no root file system can be made: {reason}")
    root, packages = scratch / "root", Path(sysconfig.get_path("purelib"))
    target = root / "usr/lib/python3/dist-packages"
    copy_tree(debian_root(), root)
    shutil.rmtree(target)
    copy_tree(packages, target)
    for name in left_out:
        shutil.rmtree(target / name)
    for name in ("dev", "proc", "sys", "run"):
        shutil.rmtree(root / name)
        (root / name).mkdir()
    return root


def copy_tree(source: Path, target: Path) -> None:
    """Copy as hard links; copy the bytes where source and target are on different disks."""
    linked = subprocess.run(["cp", "-al", str(source), str(target)], capture_output=True, check=False)
    if linked.returncode:
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def measure(root: Path, names: Sequence[str], rounds: int, scratch: Path, unpack_to: Path) -> dict[str, Found]:
    """Pack and unpack in all the ways named in turn, `rounds` times."""
    found = {name: Found() for name in names}
    image, tree = scratch / "image.sqsh", unpack_to / "unpacked"
    common = ["-all-root", "-noappend", "-no-progress", "-quiet"]
    for number in range(rounds):
        for name in names:
            image.unlink(missing_ok=True)
            found[name].pack.append(seconds(["mksquashfs", str(root), str(image), *common, *WAYS[name]]))
            found[name].size = image.stat().st_size
            forget(image)
            found[name].unpack.append(seconds(["unsquashfs", "-n", "-q", "-no-xattrs", "-d", str(tree), str(image)]))
            shutil.rmtree(tree)
            packed, unpacked = found[name].pack[-1][0], found[name].unpack[-1][0]
            print(f"round {number + 1} {name:18} {packed:7.1f} s {unpacked:6.1f} s", file=sys.stderr, flush=True)
    image.unlink()
    return found


def least(times: Sequence[tuple[float, float]], which: int) -> float:
    """Return the smallest wall (0) or CPU (1) seconds."""
    return min(pair[which] for pair in times)


def spread(times: Sequence[tuple[float, float]]) -> str:
    """How much longer the longest wall-clock time was than the shortest, in per cent."""
    walls = [wall for wall, _ in times]
    return f"+{(max(walls) / min(walls) - 1) * 100:.0f} %"


def row(name: str, way: Found, base: Found) -> str:
    """One line of the table; ratios against enroot's default."""
    cells = [
        name,
        f"{way.size / 1e6:.0f}",
        f"{way.size / base.size:.2f}",
        f"{least(way.pack, 0):.1f} ({spread(way.pack)})",
        f"{least(way.pack, 0) / least(base.pack, 0):.2f}",
        f"{least(way.pack, 1):.1f}",
        f"{least(way.unpack, 0):.1f} ({spread(way.unpack)})",
        f"{least(way.unpack, 0) / least(base.unpack, 0):.2f}",
        f"{least(way.unpack, 1):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def table(found: dict[str, Found]) -> str:
    """Return the result in Markdown."""
    head = ["way", "MB", "ratio", "pack, s", "ratio", "CPU s", "unpack, s", "ratio", "CPU s"]
    rows = [row(name, way, found[REFERENCE]) for name, way in found.items()]
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *rows])


def machine(root: Path) -> str:
    """Return the facts that the figures depend on."""
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files) / 1e6
    text = subprocess.run(["mksquashfs", "-version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"version (\S+)", text)
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    tools = f"squashfs-tools {version[1] if version else '?'}"
    processors = f"{os.cpu_count()} processors ({model[1] if model else platform.machine()})"
    return f"{size:.0f} MB in {len(files)} files; {tools}; {processors}; load {os.getloadavg()[0]:.1f}"


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?", help="an unpacked root file system")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(WAYS), help=f"these, and {REFERENCE}")
    parser.add_argument("--leave-out", nargs="+", default=[], help="directories of site-packages, for the stand-in")
    parser.add_argument("--scratch", type=Path, help="a directory for the stand-in and the images")
    parser.add_argument("--unpack-to", type=Path, help="a directory to unpack in (default: the one for scratch)")
    return parser.parse_args()


def main() -> None:
    """Measure, and print the table."""
    asked = arguments()
    names = [name for name in WAYS if not asked.only or name in (REFERENCE, *asked.only)]
    with (
        tempfile.TemporaryDirectory(dir=asked.scratch) as first,
        tempfile.TemporaryDirectory(dir=asked.unpack_to or asked.scratch) as second,
    ):
        scratch = Path(first)
        root = asked.root or stand_in(scratch, asked.leave_out)
        print(f"{machine(root)}\n", flush=True)
        warm(root)
        print(table(measure(root, names, asked.rounds, scratch, Path(second))))


if __name__ == "__main__":
    main()
