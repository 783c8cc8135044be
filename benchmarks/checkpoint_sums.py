"""What sums and verification of checkpoints cost: GB/s, the slowdown of a training beside them, and hours at scale.

    python benchmarks/checkpoint_sums.py [--gigabytes 10] [--directory DIR]

Writes shards of 1 GB, sums each while it is in the page cache as the job does after a save (two threads of the lowest
priority), then verifies all of them from the storage, with the page cache dropped for these files. Beside one shard's
sums a loop of matrix products runs as a stand-in for a training, on a GPU where there is one. From the measured rates
it computes checkpoints of 1 TB and 6 TB on several numbers of nodes. GB is 10^9 bytes; what was written is removed.

CPU time says more than wall-clock time where other programs use the machine.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from launcher.contract import manifest
from launcher.contract.manifest import Algorithm

GB = 10**9
BLOCK = 50_000_000
SIZES_TB = (1, 6)
NODES = (1, 16, 128, 1024)
SHARED_GB_S = (50, 200)
"""Bandwidths of a shared file system at scale, of published runs."""


def write_shard(path: Path) -> None:
    """Write a file of 1 GB that no file system can compress or deduplicate, and have it on the disk."""
    block = bytearray(os.urandom(BLOCK))
    with path.open("wb") as file:
        for number in range(GB // BLOCK):
            block[:8] = number.to_bytes(8, "big")
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def drop_from_cache(path: Path) -> None:
    """Drop the pages of a file from the page cache; they are on the disk already."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Return wall-clock and CPU seconds of an action."""
    cpu, began = time.process_time(), time.perf_counter()
    action()
    return time.perf_counter() - began, time.process_time() - cpu


def steps_per_second(over: threading.Event) -> list[float]:
    """Return seconds of each step of a stand-in for training, until `over` is set."""
    import torch

    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    one = torch.rand(768, 768, device="cuda" if on_gpu else "cpu")
    found = []
    while not over.is_set():
        began = time.perf_counter()
        # On a GPU many small kernels: their launches need the interpreter, as those of a training do.
        for _ in range(2000 if on_gpu else 8):
            one @ one
        if on_gpu:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return found


def slowdown(path: Path) -> tuple[float, float]:
    """Return the median seconds of a step alone, and beside the sums of a shard."""

    def beside(action: Callable[[], object]) -> float:
        over = threading.Event()

        def act() -> None:
            action()
            over.set()

        worker = threading.Thread(target=act)
        worker.start()
        found = steps_per_second(over)
        worker.join()
        return statistics.median(found)

    algorithm = manifest.best_algorithm()
    alone = beside(lambda: time.sleep(5))
    names = [path.name] * 8
    summing = beside(lambda: manifest.sum_files(path.parent, names, algorithm, threads=2, nice=True))
    return alone, summing


def row(name: str, seconds: tuple[float, float], gigabytes: float) -> float:
    """Print a row of the table; return GB/s by the wall clock."""
    wall, cpu = seconds
    print(f"{name:52} {gigabytes / wall:8.2f} {gigabytes / cpu if cpu else 0:12.2f}", flush=True)
    return gigabytes / wall


def measure(directory: Path, gigabytes: int) -> tuple[float, float]:
    """Print what was measured; return GB of sums per CPU second, and GB/s of verification from this storage."""
    print(f"{gigabytes} GB in {gigabytes} shards, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}\n")
    print(f"{'':52} {'GB/s':>8} {'GB/CPU s':>12}")
    shards = [directory / f"__{number}_0.distcp" for number in range(gigabytes)]
    algorithms: dict[Algorithm, list[tuple[float, float]]] = {manifest.best_algorithm(): [], "crc32": []}
    written, files = [0.0, 0.0], {}
    for shard in shards:
        seconds = timed(lambda path=shard: write_shard(path))  # type: ignore[misc]
        written = [total + more for total, more in zip(written, seconds, strict=True)]
        for algorithm, found in algorithms.items():

            def sums(path: Path = shard, name: Algorithm = algorithm) -> None:
                made = manifest.sum_files(path.parent, [path.name], name, threads=2, nice=True)[0]
                files.update(made if name == manifest.best_algorithm() else {})

            found.append(timed(sums))
        drop_from_cache(shard)
    row("writing, with fsync", (written[0], written[1]), gigabytes)
    rates = {}
    for algorithm, found in algorithms.items():
        total = (sum(wall for wall, _ in found), sum(cpu for _, cpu in found))
        row(f"sums after the save, page cache, {algorithm}, one shard at a time", total, gigabytes)
        rates[algorithm] = gigabytes / total[1]
    best = manifest.best_algorithm()
    names = [shard.name for shard in shards]
    threads = manifest.full_speed()
    again = {}
    seconds = timed(lambda: again.update(manifest.sum_files(directory, names, best, threads=threads)[0]))
    if again != files:
        raise SystemExit("the sums of the same files differ")
    from_storage = row(f"verification from the storage, {threads} threads", seconds, gigabytes)
    few = names[:2]
    manifest.sum_files(directory, few, best, threads=threads)  # into the page cache
    seconds = timed(lambda: manifest.sum_files(directory, few, best, threads=threads))
    row(f"verification from the page cache, {threads} threads, 2 GB", seconds, len(few))
    alone, beside = slowdown(shards[0])
    times = f"{beside * 1e3:.1f} ms, alone {alone * 1e3:.1f} ms"
    print(f"\na step beside the sums: {times} (median, {beside / alone:.2f} times)")
    return rates[best], from_storage


def compute(per_cpu_second: float, from_storage: float) -> None:
    """Print seconds of sums and of verification at scale, from rates of one CPU and of one node's storage."""
    node = 8 * per_cpu_second
    print(f"\nseconds, computed: sums with 2 threads a node ({2 * per_cpu_second:.1f} GB/s in the page cache);")
    print(f"verification with 8 threads a node, at most {node:.0f} GB/s, and the storage's bandwidth for all nodes\n")
    columns = " ".join(f"{f'{one} GB/s':>9}" for one in SHARED_GB_S)
    print(f"{'checkpoint':>10} {'nodes':>6} {'sums':>9} {'this disk':>10} {columns}")
    for size in SIZES_TB:
        for nodes in NODES:
            share = size * 1000 / nodes
            verified = [max(share / node, size * 1000 / shared) for shared in SHARED_GB_S]
            local = share / from_storage
            shown = " ".join(f"{one:9.0f}" for one in verified)
            print(f"{size:>7} TB {nodes:>6} {share / (2 * per_cpu_second):9.0f} {local:10.0f} {shown}")


def main() -> None:
    """Measure in a directory of its own, which is removed, and compute."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=int, default=10)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    free = shutil.disk_usage(options.directory).free
    if free < 2 * options.gigabytes * GB:
        parser.error(f"{options.directory} has {free / GB:.0f} GB free; twice the size of the checkpoint is asked for")
    with tempfile.TemporaryDirectory(prefix="checkpoint-sums-", dir=options.directory) as directory:
        rates = measure(Path(directory), options.gigabytes)
    compute(*rates)


if __name__ == "__main__":
    main()
