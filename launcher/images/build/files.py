"""Imports of root file systems that are not in an engine: a directory, a tarball."""

from pathlib import Path

from launcher._util.errors import ImageError
from launcher._util.line_splitter import LineSplitter
from launcher._util.shell import Shell
from launcher.contract.events import ProgressListener
from launcher.images.build import engines, pack, pipeline
from launcher.images.build.layout import bare_layout
from launcher.images.build.pack import Compression
from launcher.images.inspect.tree import DirectoryTree
from launcher.images.store import space

_COMPRESSED = (
    (b"\x1f\x8b", "--gzip"),
    (b"\x28\xb5\x2f\xfd", "--zstd"),
    (b"\xfd7zXZ\x00", "--xz"),
    (b"BZh", "--bzip2"),
)
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257
_SHELLS = ("/bin/sh", "/usr/bin/sh")
_SAVED = ("oci-layout", "manifest.json", "repositories")


def from_directory(
    root: Path, workspace: Path, compression: Compression, shell: Shell, report: ProgressListener
) -> dict[str, str]:
    """Pack a directory, which is only read, to the workspace's image; return the tools. Raises ImageError."""
    check_root(root, str(root))
    return pipeline.pack_tree(root, bare_layout(root), workspace / pipeline.IMAGE, compression, shell, report)


def from_tarball(
    tarball: Path, workspace: Path, compression: Compression, shell: Shell, report: ProgressListener
) -> dict[str, str]:
    """Unpack and pack a tarball: not compressed, or with gzip, zstd, xz, bzip2. Raises ImageError."""
    option = _kind(tarball)
    root = workspace / "root"
    root.mkdir()
    # Its content is at least this large; how much larger is known only after unpacking.
    space.require(workspace, tarball.stat().st_size, "the unpacked tarball")
    report.stage(f"unpacking {tarball.name}")
    lines = LineSplitter(report.line)
    with pack.full_disk(workspace):
        shell.stream(engines.untar_command(root, str(tarball), option), lines)
    lines.end()
    engines.make_readable(root, shell)
    check_root(root, str(tarball))
    return pipeline.pack_tree(root, bare_layout(root), workspace / pipeline.IMAGE, compression, shell, report)


def check_root(root: Path, place: str) -> None:
    """Raise ImageError unless `root` looks like the root of a file system that containers can be started from."""
    if DirectoryTree(root).find(_SHELLS):
        return
    names = sorted(path.name for path in root.iterdir())
    hint = "A root file system has bin, etc, usr, ... at its top, and a shell: containers are started with /bin/sh."
    if any(name in names for name in _SAVED):
        hint = (
            "It holds layers of an image, as `docker save` writes them. Load it into an engine and import from that: "
            f"`podman load --input {Path(place).name}`, then `launcher image import podman://NAME`."
        )
    elif len(names) == 1 and DirectoryTree(root / names[0]).find(_SHELLS):
        hint = f"There is one below {names[0]}/: import that directory, or make the archive inside it."
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"
    raise ImageError(f"this is not a root file system: it holds {shown}, and no /bin/sh", where=place, hint=hint)


def _kind(tarball: Path) -> str | None:
    """Return the option of tar for a compressed file, by its first bytes. Raises ImageError if it is not a tarball."""
    with tarball.open("rb") as file:
        head = file.read(_TAR_MAGIC_AT + len(_TAR_MAGIC))
    for magic, option in _COMPRESSED:
        if head.startswith(magic):
            return option
    if head.endswith(_TAR_MAGIC) and len(head) == _TAR_MAGIC_AT + len(_TAR_MAGIC):
        return None
    raise ImageError(
        "this is neither a squashfs file nor a tarball",
        where=str(tarball),
        hint="Import a directory, a tarball (also .gz, .zst, .xz, .bz2), a .sqsh file or an image by its name.",
    )
