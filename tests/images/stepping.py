"""Builds in a store by processes that are killed right before their N-th step on the file system, for every N.

`python stepping.py ROOT` prints one JSON line for each N: at which call the process died and what a look at the store
found; the last line is of the N that no build reaches any more.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.images.store.collect import collect
from launcher.images.store.lock import LeaseTiming
from launcher.images.store.store import Store
from tests.images.stores import add, whole

# There are no competitors: what has to be waited for (a lease that was not yet written) may count as silent soon.
QUICK = LeaseTiming(heartbeat_s=0.05, stale_s=0.2, poll_s=0.01)
STEPS = [
    "open",
    "mkdir",
    "rename",
    "replace",
    "link",
    "symlink",
    "fsync",
    "unlink",
    "rmdir",
    "chmod",
    "fchmod",
    "write",
    "pwrite",
    "utime",
]


def die_at(number: int, report: Path) -> None:
    """Let this process kill itself right before its N-th of these calls."""
    count = 0

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            nonlocal count
            # Opening counts where it makes a file.
            count += name != "open" or bool(args[1] & os.O_CREAT)
            if count == number and not report.exists():
                with report.open("w") as file:
                    file.write(f"{name} {args[0] if args else ''}")
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return step

    # The report itself is written with io.open, which calls none of these.
    for name in STEPS:
        setattr(os, name, counted(name, getattr(os, name)))


def in_child(work: Callable[[], None]) -> int:
    """Run it in a process of its own; its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # nothing of the parent's may run here
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def build(root: Path, content: str) -> None:
    """A build that moves one name and makes another."""
    add(Store(root, timing=QUICK), content, "latest", f"name-{content}", key="key")


def gc(root: Path, _: str) -> None:
    """Remove what has no name, as another builder of the same content would find it."""
    collect(Store(root, timing=QUICK), older_than_s=-1, is_live=lambda _: False, keep_names=False)


def check(root: Path, content: str) -> None:
    """The store is whole as it is, the next build works, and then nothing is left over."""
    store = Store(root, timing=QUICK)
    whole(store)
    add(store, content, "latest", key="key")
    found = store.find("latest")
    assert found is not None
    assert found.path.read_text() == content
    whole(store)
    assert list(store.partial.iterdir()) == []
    collect(store, older_than_s=10**6, is_live=lambda _: None)
    orphans = [path for path in store.images.glob("*.json") if not path.with_suffix(".sqsh").exists()]
    assert orphans == []
    assert list((root / ".trash").glob("*")) == []
    assert {path.name for path in root.iterdir()} <= {
        *(f"{name}.sqsh" for name in store.names()), "sha256", ".partial", ".locks", ".trash", "uses",
    }  # fmt: skip


def main() -> None:
    """See the module."""
    top, work = Path(sys.argv[1]), {"build": build, "gc": gc}[sys.argv[2]]
    report = top / "report"
    for number in range(1, 400):
        root = top / str(number)
        if in_child(lambda root=root: build(root, "old")):  # type: ignore[misc]
            raise SystemExit("the first build failed")
        report.unlink(missing_ok=True)

        def killed(number: int = number, root: Path = root) -> None:
            die_at(number, report)
            work(root, "new")

        status = in_child(killed)
        step = report.read_text().replace(str(root), "ROOT") if report.exists() else None
        good = in_child(lambda root=root: check(root, "new")) == 0  # type: ignore[misc]
        print(json.dumps({"number": number, "step": step, "status": status, "good": good}), flush=True)
        if status != signal.SIGKILL:
            return


if __name__ == "__main__":
    main()
