"""`launcher image list`, `inspect` and `verify`."""

import argparse
import dataclasses
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher._util.tables import aligned, printable
from launcher.cli.arguments import add_store_cluster
from launcher.cli.completion import complete
from launcher.cli.output import coloured, info, print_json, say, warn
from launcher.contract.units import bytes_text

if TYPE_CHECKING:
    from launcher.api.image import ListedImage
    from launcher.images.manifest import Manifest
    from launcher.images.store.store import StoredImage

VERIFY_HELP = """\
Check an image: the file's format, its size against what its superblock says, the architecture against the cluster's
profile, what training needs in it, and with --checksum every byte. Ends with status 2 if it cannot be used.
"""


def add_list(parser: argparse.ArgumentParser) -> None:
    """Add the options of list."""
    add_store_cluster(parser)


def add_inspect(parser: argparse.ArgumentParser) -> None:
    """Add the options of inspect."""
    _add_image(parser)


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Add the options of verify."""
    _add_image(parser)
    parser.add_argument("--checksum", action="store_true", help="read the whole file and compare its digest")


def _add_image(parser: argparse.ArgumentParser) -> None:
    complete(parser.add_argument("image", metavar="IMAGE", help="a name of the store, a digest, or a file"), "images")
    add_store_cluster(parser)


def run_list(parsed: argparse.Namespace) -> int:
    """Print a table of the store."""
    from launcher.api.image import list_images

    found = list_images(parsed.cluster)
    root = found.store.root
    if parsed.json:
        print_json({"store": str(root), "images": [_as_json(image) for image in found.images]})
        return 0
    if not found.images:
        info(f"no images in {root}; make one: launcher image build, launcher image import REFERENCE")
        return 0
    head, *lines = table(found.images, shutil.get_terminal_size().columns)
    say("\n".join([coloured(head, "bold", sys.stdout), *lines]))
    info(coloured(str(root), "dim"))
    return 0


def table(images: Sequence["ListedImage"], width: int) -> list[str]:
    """Return the lines of a table with its head: one for each image where all of them fit in `width` columns.

    Otherwise an image's names and its source stand below its line. A name is never cut.
    """
    cells = [_cells(image.entry, len(image.uses)) for image in images]
    sources = [_source(image.entry) for image in images]
    names = [image.entry.names or ("-",) for image in images]
    columns = ("DIGEST", "SIZE", "ARCHITECTURE", "CREATED", "RUNS")
    rows = [(", ".join(ours), *row, source) for ours, row, source in zip(names, cells, sources, strict=True)]
    lines = aligned([("NAME", *columns, "SOURCE"), *rows])
    if max(map(len, lines)) <= width:
        return lines
    head, *lines = aligned([columns, *cells])
    blocks = [head]
    for line, ours, source in zip(lines, names, sources, strict=True):
        blocks += [line, *(f"  {name}" for name in ours)]
        blocks += textwrap.wrap(
            printable(source),
            width,
            initial_indent="  ",
            subsequent_indent="       ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return blocks


def _cells(entry: "StoredImage", uses: int) -> tuple[str, ...]:
    digest = (entry.digest or "-").removeprefix("sha256:")[:12]
    architecture, created = (it.architecture, it.created) if (it := entry.manifest) else (None, "?")
    return (digest, bytes_text(entry.size_bytes), architecture or "?", created[:16], str(uses))


def _source(entry: "StoredImage") -> str:
    """Return what an image was made from, or what is wrong with it."""
    if (it := entry.manifest) is None:
        return entry.problem or "put there by others"
    return f"{it.source.kind} {it.source.text}" if it.source else "of unknown source"


def _as_json(image: "ListedImage") -> dict[str, Any]:
    entry = image.entry
    return {
        "digest": entry.digest,
        "path": str(entry.path),
        "names": list(entry.names),
        "problem": entry.problem,
        "manifest": entry.manifest.model_dump() if entry.manifest else None,
        "uses": [dataclasses.asdict(use) for use in image.uses],
    }


def run_inspect(parsed: argparse.Namespace) -> int:
    """Print everything that is known about one image."""
    from launcher.api.image import inspect_image

    found = inspect_image(parsed.image, parsed.cluster)
    verified, stored = found.verified, found.stored
    if parsed.json:
        known = _as_json(stored) if stored else {"path": str(verified.path), "names": [], "uses": []}
        print_json({**known, "manifest": verified.manifest.model_dump(), "unchecked": verified.unchecked})
        return 0
    say("\n".join(_lines(verified.path, stored.entry.names if stored else (), verified.manifest)))
    for use in stored.uses if stored else ():
        say(f"used by       {use.run_dir} ({use.backend}, {use.user}{f', job {use.job}' if use.job else ''})")
    for text in verified.unchecked:
        info(f"not looked at: {text}")
    return 0


def _lines(path: Path, names: tuple[str, ...], it: "Manifest") -> list[str]:
    """Return the facts of a manifest, one a line."""
    source = it.source
    facts: list[tuple[str, str]] = [
        ("file", str(path)),
        ("names", ", ".join(names)),
        ("digest", it.digest or "not computed"),
        ("size", bytes_text(it.size_bytes)),
        ("architecture", it.architecture or "unknown"),
        ("created", it.created),
        ("made from", f"{source.kind} {source.text}" if source else "unknown: not by the launcher"),
        ("its digest", (source.digest if source else None) or ""),
        ("made with", ", ".join(f"{name} {version}" for name, version in sorted(it.tools.items()))),
        ("compression", it.compression or "unknown"),
        ("python", it.contents.python or "none found"),
    ]
    facts += [("package", f"{name} {version}") for name, version in sorted(it.contents.packages.items())]
    facts += [("imported", f"{name} {version}") for name, version in sorted(it.contents.verified.items())]
    for plugin in it.contents.network_plugins:
        names_text = f" (NCCL_NET: {', '.join(plugin.names)})" if plugin.names else ""
        facts.append((f"nccl {plugin.kind}", f"{plugin.path}{names_text}"))
    facts += [("MoE", backend) for backend in it.contents.moe_backends]
    for name, value in sorted(it.environment.items()):
        facts.append(("environment", f"{name}={'(value not shown)' if value is None else value}"))
    return [f"{label:12}  {text}" for label, text in facts if text]


def run_verify(parsed: argparse.Namespace) -> int:
    """Print that an image is good, or raise what is wrong with it."""
    from launcher.api.image import verify_image
    from launcher.images.verify import lacking

    verified = verify_image(parsed.image, parsed.cluster, checksum=parsed.checksum)
    it = verified.manifest
    absent = lacking(it)
    if parsed.json:
        print_json(
            {
                "path": str(verified.path),
                "ok": True,
                "digest": it.digest,
                "architecture": it.architecture,
                "size_bytes": it.size_bytes,
                "checksum": parsed.checksum,
                "unchecked": list(verified.unchecked),
                "warnings": list(verified.warnings),
                "lacking": list(absent),
            }
        )
        return 0
    for text in verified.warnings:
        info(f"{coloured('warning:', 'yellow')} {text}")
    for text in verified.unchecked:
        info(f"not checked: {text}")
    if absent:
        warn(f"it lacks {', '.join(absent)}, which training needs (launcher help requirements)")
    checked = "every byte" if parsed.checksum else "format, size, architecture"
    size, architecture = bytes_text(it.size_bytes), it.architecture or "architecture unknown"
    say(f"{verified.path}: good ({checked}; {size}, {architecture})")
    return 0
