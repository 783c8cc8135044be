"""Tokens per second through `launcher run` against plain `python`, alternately, on the GPUs of this machine.

    python benchmarks/gpu_throughput.py [--gpus 1] [--rounds 2] [--iterations 30] [KEY=VALUE ...]

Both train recipes/llama32_1b_pretrain.py with the same overrides. Times are Bridge's own, "elapsed time per iteration
(ms)" of its log line, read from both logs in the same way: the median after the tenth iteration.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes/llama32_1b_pretrain.py"
SEQUENCE = 8192
ELAPSED = re.compile(r"iteration\s+(\d+)/.*elapsed time per iteration \(ms\): ([0-9.]+)")
MEASURED_AFTER = 10

PLAIN = """
import sys
sys.path.insert(0, {root!r})
from recipes.llama32_1b_pretrain import configure
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.pretrain import pretrain
from megatron.bridge.training.utils.omegaconf_utils import process_config_with_overrides
if __name__ == "__main__":
    config = configure()
    config.checkpoint.save = config.checkpoint.load = config.logger.tensorboard_dir = None
    pretrain(process_config_with_overrides(config, cli_overrides=sys.argv[1:]), forward_step)
"""


def plain(overrides: list[str], gpus: int, directory: Path) -> str:
    """Plain processes with the rank variables, nothing else; returns their log."""
    program = directory / "plain.py"
    program.write_text(PLAIN.format(root=str(ROOT)))
    environ = {**os.environ, "WORLD_SIZE": str(gpus), "LOCAL_WORLD_SIZE": str(gpus), "MASTER_ADDR": "127.0.0.1"}
    environ |= {"MASTER_PORT": str(20000 + int(time.time()) % 9000), "OMP_NUM_THREADS": "1"}
    log = directory / f"plain-{time.time_ns()}.log"
    with log.open("w") as output:
        ranks = [
            subprocess.Popen(
                [sys.executable, str(program), *overrides],
                env={**environ, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=output,
                stderr=output,
                cwd=directory,
            )
            for rank in range(gpus)
        ]
        if any(rank.wait() for rank in ranks):
            sys.exit(f"plain python failed:\n{log.read_text()[-4000:]}")
    return log.read_text()


def launched(overrides: list[str], gpus: int, directory: Path) -> str:
    """Train the same through the launcher and return the logs of all ranks."""
    root = directory / f"runs-{time.time_ns()}"
    argv = [sys.executable, "-m", "launcher", "run", str(RECIPE), "--cluster", "local", "--run-root", str(root)]
    argv += ["--gpus-per-node", str(gpus), *overrides]
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "NCCL_NVLS_ENABLE"):
        if name in os.environ:
            argv += ["--env", name]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"launcher run ended with status {done.returncode}:\n{done.stderr[-4000:]}")
    return "\n".join(path.read_text() for path in sorted(root.rglob("rank-*.log")))


def seconds_per_iteration(log: str) -> float:
    """Return the median of what Bridge logged after the first iterations."""
    times = {int(number): float(ms) / 1e3 for number, ms in ELAPSED.findall(log)}
    measured = [seconds for number, seconds in times.items() if number > MEASURED_AFTER]
    if not measured:
        sys.exit(f"no iteration times in the log:\n{log[-4000:]}")
    return statistics.median(measured)


def main() -> None:
    """Alternate, and print each round and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    batch = 8 * asked.gpus
    overrides = [f"train.train_iters={asked.iterations}", f"train.global_batch_size={batch}", *asked.overrides]
    # Writing a gigabyte-sized checkpoint at the end is not part of an iteration.
    overrides += ["checkpoint.save=null"]
    found: dict[str, list[float]] = {"plain python": [], "launcher run": []}
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(asked.rounds):
            for name, start in (("plain python", plain), ("launcher run", launched)):
                begun = time.monotonic()
                seconds = seconds_per_iteration(start(overrides, asked.gpus, Path(directory)))
                found[name].append(batch * SEQUENCE / seconds)
                whole = time.monotonic() - begun
                rate = f"{seconds:.4f} s/iteration, {found[name][-1]:9.0f} tokens/s"
                print(f"{name:13} {asked.gpus} GPUs: {rate}, {whole:.0f} s in all", flush=True)
    medians = {name: statistics.median(values) for name, values in found.items()}
    print(f"tokens per second, launcher run : plain python = {medians['launcher run'] / medians['plain python']:.4f}")


if __name__ == "__main__":
    main()
