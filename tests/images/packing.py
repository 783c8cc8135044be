"""Builders with a real mksquashfs that race each other or are killed.

    python packing.py together ROOT TREE LOG KIND FAR    eight at once; prints a line for each
    python packing.py killed ROOT TREE LOG               ten, one after the other, killed at random moments

LOG gets a line for each time that something was packed.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from launcher.images.store.building import start_building
from launcher.images.store.store import Store
from tests.images.locks import QUICK, node
from tests.images.stores import MANIFEST, whole

TIMING = replace(QUICK, heartbeat_s=0.2, stale_s=4.0)


def pack(store: Store, tree: str, log: str) -> str:
    """Build the image of the tree, or find it built."""
    with start_building(store, "the tree") as building:
        if building.finished is not None:
            return f"found {building.finished.digest}"
        with Path(log).open("a") as file:
            file.write("built\n")
        out = building.workspace / "out.sqsh"
        argv = ["mksquashfs", tree, str(out), "-quiet", "-no-progress", "-all-root", "-processors", "1"]
        subprocess.run([*argv, "-mkfs-time", "0", "-all-time", "0"], check=True, stdout=subprocess.DEVNULL)
        return f"made {building.add(out, MANIFEST, ['tree+latest']).digest}"


def start(work: Callable[[], str]) -> int:
    """Run it in a process of its own, with a session of its own."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        os.write(1, f"{work()}\n".encode())
        status = 0
    finally:
        os._exit(status)


def together(root: str, tree: str, log: str, kind: str, far: str) -> int:
    """Eight builders, each on a machine of its own if `far`, all of which start at the same moment."""
    began = time.time() + 0.3

    def one(number: int) -> str:
        store = Store(Path(root), node(f"node-{number}") if far == "far" else None, kind == "kernel", TIMING)
        time.sleep(max(0, began - time.time()))
        return pack(store, tree, log)

    children = [start(lambda number=number: one(number)) for number in range(8)]  # type: ignore[misc]
    return max(os.waitpid(child, 0)[1] for child in children)


def size(log: str) -> int:
    """Bytes in the log so far."""
    return Path(log).stat().st_size if Path(log).exists() else 0


def killed(root: str, tree: str, log: str) -> int:
    """Ten builders, killed at random moments, every other time together with their mksquashfs."""
    store, moments = Store(Path(root), timing=TIMING), random.Random(7)  # noqa: S311
    for number in range(10):
        packed = size(log)
        child = start(lambda: pack(store, tree, log))
        while number % 3 and size(log) == packed:  # these are killed while they pack or publish
            time.sleep(0.002)
        time.sleep(moments.random() * 0.1)
        (os.killpg if number % 2 else os.kill)(child, signal.SIGKILL)
        os.waitpid(child, 0)
        whole(store)
    return 0


if __name__ == "__main__":
    sys.exit(together(*sys.argv[2:]) if sys.argv[1] == "together" else killed(*sys.argv[2:]))
