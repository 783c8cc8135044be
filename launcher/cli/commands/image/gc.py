"""`launcher image gc`: remove images that are no longer used and keep those that a queued or running job names."""

import argparse

from launcher.cli.arguments import add_store_cluster
from launcher.cli.output import info, print_json, say
from launcher.cli.parser import age_s
from launcher.contract.units import bytes_text

GC_HELP = """\
Remove images that no queued or running job names and that were not used for a while, and what dead builds left.
An image that a name points to stays, unless --include-named is given.
Where Slurm does not answer, everything in use stays.
"""


def add_gc(parser: argparse.ArgumentParser) -> None:
    """Add the options of gc."""
    add = parser.add_argument
    add("--older-than", metavar="AGE", type=age_s, default="30d", help="not used for this long: 12h, 30d (default), 0")
    add("--include-named", action="store_true", help="images with a name may go, too")
    add("--dry-run", "-n", action="store_true", help="say what would go, and why the rest stays")
    add_store_cluster(parser)


def run_gc(parsed: argparse.Namespace) -> int:
    """Remove images and print what was removed, and why the rest stays."""
    from launcher.api.image import collect_images

    found = collect_images(
        older_than_s=parsed.older_than,
        include_named=parsed.include_named,
        dry_run=parsed.dry_run,
        cluster=parsed.cluster,
    )
    store, done = found.store, found.collected
    if parsed.json:
        print_json(
            {
                "store": str(store.root),
                "dry_run": parsed.dry_run,
                "removed": [
                    {"path": str(it.path), "digest": it.digest, "bytes": it.size_bytes, "reason": it.reason}
                    for it in done.removed
                ],
                "kept": [
                    {"path": str(it.entry.path), "digest": it.entry.digest, "reason": it.reason} for it in done.kept
                ],
                "freed_bytes": done.freed_bytes,
            }
        )
        return 0
    for gone in done.removed:
        verb = "would go" if parsed.dry_run else "removed "
        label = ", ".join(gone.names) or (gone.digest or str(gone.path)).removeprefix("sha256:")[:40]
        say(f"{verb}  {label}  {bytes_text(gone.size_bytes)}  {gone.reason}")
    for kept in done.kept:
        label = ", ".join(kept.entry.names) or kept.entry.path.stem[:12]
        say(f"kept      {label}  {bytes_text(kept.entry.size_bytes)}  {kept.reason}")
    info(f"{'would free' if parsed.dry_run else 'freed'} {bytes_text(done.freed_bytes)} in {store.root}")
    return 0
