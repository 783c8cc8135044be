"""`launcher image list`, `inspect` and `verify`."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher._util.tables import aligned
from launcher.cli.completion import complete
from launcher.cli.image_store import add_cluster, cluster_of
from launcher.cli.output import coloured, print_json, say
from launcher.contract.units import bytes_text

if TYPE_CHECKING:
    from launcher.images.manifest import Manifest
    from launcher.images.store.store import Store, StoredImage
    from launcher.images.store.uses import Use

VERIFY_HELP = """\
Check an image: the file's format, its size against what its superblock says, the architecture against the cluster's
profile, and with --checksum every byte. Ends with status 2 if it cannot be used.
"""


def add_list(parser: argparse.ArgumentParser) -> None:
    """Options of list."""
    add_cluster(parser)


def add_inspect(parser: argparse.ArgumentParser) -> None:
    """Options of inspect."""
    _add_image(parser)


def add_verify(parser: argparse.ArgumentParser) -> None:
    """Options of verify."""
    _add_image(parser)
    parser.add_argument("--checksum", action="store_true", help="read the whole file and compare its digest")


def _add_image(parser: argparse.ArgumentParser) -> None:
    complete(parser.add_argument("image", metavar="IMAGE", help="a name of the store, a digest, or a file"), "images")
    add_cluster(parser)


def run_list(parsed: argparse.Namespace) -> int:
    """A table of the store."""
    from launcher.discovery.image import image_store

    cluster, host = cluster_of(parsed)
    store = image_store(cluster, host.environ)
    entries = [*store.entries(), *store.plain_files()]
    if parsed.json:
        print_json({"store": str(store.root), "images": [_as_json(store, entry) for entry in entries]})
        return 0
    if not entries:
        say(f"no images in {store.root}; make one: launcher image build, launcher image import REFERENCE")
        return 0
    rows = [_row(entry, len(_uses(store, entry))) for entry in entries]
    header = ("NAME", "DIGEST", "SIZE", "ARCHITECTURE", "CREATED", "RUNS", "FROM")
    head, *lines = aligned([header, *rows])
    print("\n".join([coloured(head, "bold", sys.stdout), *lines]))
    say(coloured(str(store.root), "dim"))
    return 0


def _row(entry: "StoredImage", uses: int) -> tuple[str, ...]:
    names = ", ".join(entry.names) or "-"
    digest = (entry.digest or "-").removeprefix("sha256:")[:12]
    it, size = entry.manifest, bytes_text(entry.size_bytes)
    if it is None:
        return (names, digest, size, "?", "?", str(uses), entry.problem or "put there by others")
    source = f"{it.source.kind} {it.source.text}" if it.source else "?"
    return (names, digest, size, it.architecture or "?", it.created[:16], str(uses), source)


def _uses(store: "Store", entry: "StoredImage") -> "tuple[Use, ...]":
    from launcher.images.store.uses import uses_of

    return uses_of(store, entry.digest) if entry.digest else ()


def _as_json(store: "Store", entry: "StoredImage") -> dict[str, Any]:
    import dataclasses

    return {
        "digest": entry.digest,
        "path": str(entry.path),
        "names": list(entry.names),
        "problem": entry.problem,
        "manifest": entry.manifest.model_dump(mode="json") if entry.manifest else None,
        "uses": [dataclasses.asdict(use) for use in _uses(store, entry)],
    }


def run_inspect(parsed: argparse.Namespace) -> int:
    """Everything that is known of one image."""
    from launcher._util.shell import LocalShell
    from launcher.discovery.image import find_image, image_store
    from launcher.images.verify import check

    cluster, host = cluster_of(parsed)
    store = image_store(cluster, host.environ)
    path = find_image(parsed.image, store, cluster, host)
    verified = check(path, architecture=None, shell=LocalShell())
    entry = next((each for each in store.entries() if each.path == verified.path), None)
    uses = _uses(store, entry) if entry else ()
    if parsed.json:
        known = _as_json(store, entry) if entry else {"path": str(verified.path), "names": [], "uses": []}
        print_json({**known, "manifest": verified.manifest.model_dump(mode="json"), "unchecked": verified.unchecked})
        return 0
    print("\n".join(_lines(verified.path, entry.names if entry else (), verified.manifest)))
    for use in uses:
        print(f"used by       {use.run_dir} ({use.backend}, {use.user}{f', job {use.job}' if use.job else ''})")
    for text in verified.unchecked:
        say(f"not looked at: {text}")
    return 0


def _lines(path: Path, names: tuple[str, ...], it: "Manifest") -> list[str]:
    """The facts of a manifest, one a line."""
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
    """Say that an image is good, or raise what is wrong with it."""
    from launcher._util.shell import LocalShell
    from launcher.discovery.image import find_image, image_store
    from launcher.images.verify import check

    cluster, host = cluster_of(parsed)
    path = find_image(parsed.image, image_store(cluster, host.environ), cluster, host)
    verified = check(path, architecture=cluster.architecture, shell=LocalShell(), checksum=parsed.checksum)
    it = verified.manifest
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
            }
        )
        return 0
    for text in verified.warnings:
        say(f"{coloured('warning:', 'yellow')} {text}")
    for text in verified.unchecked:
        say(f"not checked: {text}")
    checked = "every byte" if parsed.checksum else "format, size, architecture"
    size, architecture = bytes_text(it.size_bytes), it.architecture or "architecture unknown"
    print(f"{verified.path}: good ({checked}; {size}, {architecture})")
    return 0
