"""`launcher image gc`: what nobody uses any more goes; what a queued or running job names stays."""

import argparse
import re

from launcher.cli.image_store import add_cluster, cluster_of
from launcher.cli.output import print_json, say
from launcher.contract.units import bytes_text

GC_HELP = """\
Remove images that no queued or running job names and that nobody has used for a while, and what dead builds left.
An image that a name points to stays, unless --named is given. Where Slurm does not answer, everything in use stays.
"""


def add_gc(parser: argparse.ArgumentParser) -> None:
    """Options of gc."""
    add = parser.add_argument
    add("--older-than", metavar="AGE", default="30d", help="not used for this long: 12h, 30d (default), 0")
    add("--named", action="store_true", help="images with a name may go, too")
    add("--dry-run", "-n", action="store_true", help="say what would go, and why the rest stays")
    add_cluster(parser)


def run_gc(parsed: argparse.Namespace) -> int:
    """Collect, tell."""
    from launcher._util.shell import LocalShell
    from launcher.discovery.image import image_store
    from launcher.images.store.collect import collect
    from launcher.images.store.uses import uses_of
    from launcher.watch.image_uses import liveness

    age_s = _seconds(parsed.older_than)
    cluster, host = cluster_of(parsed)
    store = image_store(cluster, host.environ)
    uses = [use for entry in store.entries() if entry.digest for use in uses_of(store, entry.digest)]
    done = collect(
        store,
        older_than_s=age_s,
        keep_names=not parsed.named,
        is_live=liveness(uses, cluster.name, LocalShell()),
        dry_run=parsed.dry_run,
    )
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
        print(f"{verb}  {label}  {bytes_text(gone.size_bytes)}  {gone.reason}")
    for kept in done.kept:
        label = ", ".join(kept.entry.names) or kept.entry.path.stem[:12]
        print(f"kept      {label}  {bytes_text(kept.entry.size_bytes)}  {kept.reason}")
    say(f"{'would free' if parsed.dry_run else 'freed'} {bytes_text(done.freed_bytes)} in {store.root}")
    return 0


def _seconds(text: str) -> float:
    from launcher._util.errors import SpecError

    match = re.fullmatch(r"(\d+)\s*([smhdw]?)", text)
    if match is None:
        raise SpecError(f"{text!r} is no age", where="--older-than", hint="Such as 12h, 30d, 8w, or 0 for any age.")
    return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]
