"""How long a rank takes to the first line of a recipe's `configure()`, against the imports that it cannot do without.

    python benchmarks/rank_startup.py [--runs 5] [--device auto|cpu|gpu]

The baseline imports torch and what the recipe imports of Megatron Bridge, in a plain `python -c`; where there is no GPU
it applies the CPU back end, without which Bridge cannot be imported there. Runs alternate, after one of each that does
not count. The smallest of each column is compared: whatever else the machine does only adds to it.
Target: at most 0.1 s more than the baseline.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from launcher.facts.code import code_files
from launcher.facts.recipe import BridgeRecipe

ROOT = Path(__file__).resolve().parents[1]
TARGET_S = 0.1

RECIPE = """\
from megatron.bridge.recipes.gpt.vanilla_gpt import vanilla_gpt_pretrain_config


def configure():
    import os, time
    print("REACHED", time.time(), time.process_time(), flush=True)
    os._exit(0)
"""

BASELINE = """\
import sys
sys.path.insert(0, {code!r})
import torch
if {cpu}:
    from launcher.runtime import cpu
    cpu.enable()
from megatron.bridge.recipes.gpt.vanilla_gpt import vanilla_gpt_pretrain_config
import os, time
print("REACHED", time.time(), time.process_time(), flush=True)
os._exit(0)
"""


def make_run(path: Path, device: str) -> Path:
    """A run directory whose recipe ends the process in its first line."""
    code = path / "code"
    (code / "recipe").mkdir(parents=True)
    for target, source in code_files(BridgeRecipe("unused"), None, ROOT):
        (code / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, code / target)
    (code / "recipe" / "first_line.py").write_text(RECIPE)
    recipe = {"path": "recipe/first_line.py", "function": "configure"}
    settings = {"device": device, "load": False, "profiler": None, "user_env": []}
    request = {"version": 1, "recipe": recipe, "arguments": {}, "overrides": [], "settings": settings}
    (path / "argv.json").write_text(json.dumps(request))
    return path


def environment(run: Path) -> dict[str, str]:
    """The environment of the only rank; byte code is written and used, as in a job."""
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "0"}
    place = {
        "LAUNCHER_RUN_DIR": str(run),
        "LAUNCHER_ATTEMPT": "000",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **rank, **place, "OMP_NUM_THREADS": "1"}


def measure(command: list[str], run: Path) -> tuple[float, float]:
    """Seconds on the clock and on the CPU from the start of the process to the recipe's first line."""
    start = time.time()
    done = subprocess.run(command, env=environment(run), capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("REACHED")), None)
    if line is None:
        raise SystemExit(f"{command[:2]} never got there:\n{done.stderr[-2000:]}")
    reached, cpu_s = (float(word) for word in line.split()[1:])
    return reached - start, cpu_s


def main() -> int:
    """Print the table; exit status 1 where the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), default="auto")
    options = parser.parse_args()
    import torch

    cpu = options.device == "cpu" or (options.device == "auto" and not torch.cuda.is_available())
    with tempfile.TemporaryDirectory() as directory:
        run = make_run(Path(directory) / "run", options.device)
        commands = {
            "imports alone": [sys.executable, "-c", BASELINE.format(code=str(run / "code"), cpu=cpu)],
            "entrypoint.py": [sys.executable, str(run / "code" / "entrypoint.py")],
        }
        measured: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for number in range(options.runs + 1):
            for name, command in commands.items():
                times = measure(command, run)
                if number > 0:
                    measured[name].append(times)
    return report(measured)


def report(measured: dict[str, list[tuple[float, float]]]) -> int:
    """The table, and 1 where the target is missed (by CPU seconds, the steadier measure)."""
    least = {name: [min(column) for column in zip(*times, strict=True)] for name, times in measured.items()}
    print(f"{'':16}{'clock s':>22}{'CPU s':>22}   least (and median) of alternating runs")
    for name, times in measured.items():
        cells = [f"{min(column):.2f} ({statistics.median(column):.2f})" for column in zip(*times, strict=True)]
        print(f"{name:16}{cells[0]:>22}{cells[1]:>22}")
    base, ours = least["imports alone"], least["entrypoint.py"]
    print(f"{'difference':16}{ours[0] - base[0]:22.2f}{ours[1] - base[1]:22.2f}   target: at most {TARGET_S} s")
    print(f"{'ratio':16}{ours[0] / base[0]:22.3f}{ours[1] / base[1]:22.3f}")
    return 0 if ours[1] - base[1] <= TARGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
