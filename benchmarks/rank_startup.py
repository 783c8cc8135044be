"""How long a rank takes to the first line of a recipe's `configure()`, against the imports that it cannot do without.

    python benchmarks/rank_startup.py [--runs 5] [--device auto|cpu|gpu]

The baseline imports torch and what the recipe imports of Megatron Bridge, in a plain `python -c`; where there is no GPU
it applies the CPU back end, without which Bridge cannot be imported there. Runs alternate, after one of each that does
not count.

The imports take ten seconds and more, and vary by more than what is looked for. So Python itself says how long each
module took (-X importtime), and what both programs import is left out: what remains is the entrypoint's own work and
its own modules. Target: at most 0.1 s more than the baseline.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.discovery.code_files import code_files
from launcher.discovery.recipe import BridgeRecipe
from launcher.discovery.shipped_code import shipped_code

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.job.ranks import SETTINGS  # noqa: E402

TARGET_S = 0.1
IMPORT_TIME = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", re.MULTILINE)

RECIPE = """\
from megatron.bridge.recipes.gpt.vanilla_gpt import vanilla_gpt_pretrain_config


def configure():
    import os, time
    print("REACHED", time.time(), flush=True)
    os._exit(0)
"""

BASELINE = """\
import sys
sys.path.insert(0, {code!r})
import torch
if {cpu}:
    from launcher.job import cpu
    cpu.enable()
from megatron.bridge.recipes.gpt.vanilla_gpt import vanilla_gpt_pretrain_config
import os, time
print("REACHED", time.time(), flush=True)
os._exit(0)
"""


def make_run(path: Path, device: str) -> Path:
    """Write a run directory whose recipe ends the process in its first line."""
    code = path / "code"
    (code / "recipe").mkdir(parents=True)
    for target, source in code_files(shipped_code(BridgeRecipe("unused")), None, ROOT):
        (code / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, code / target)
    (code / "recipe" / "first_line.py").write_text(RECIPE)
    recipe = {"path": "recipe/first_line.py", "function": "configure"}
    settings = {**SETTINGS, "device": device}
    request = {"version": 1, "recipe": recipe, "arguments": {}, "overrides": [], "options": settings}
    (path / "argv.json").write_text(json.dumps(request))
    return path


def environment(run: Path) -> dict[str, str]:
    """Return the environment of the only rank; byte code is written and used, as in a job."""
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "0"}
    place = {
        "LAUNCHER_RUN_DIR": str(run),
        "LAUNCHER_ATTEMPT": "000",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **rank, **place, "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Start:
    """One start: seconds on the clock to the recipe's first line, and of them in each module's own code."""

    total_s: float
    modules: Mapping[str, float]

    @property
    def outside_s(self) -> float:
        """Seconds that no import accounts for."""
        return self.total_s - sum(self.modules.values())

    def only_here_s(self, other: "Start") -> float:
        """Seconds in modules that the other did not import."""
        return sum(seconds for name, seconds in self.modules.items() if name not in other.modules)


def measure(arguments: list[str], run: Path) -> Start:
    """Start Python with these arguments and see it reach the recipe's first line."""
    command = [sys.executable, "-X", "importtime", *arguments]
    start = time.time()
    done = subprocess.run(command, env=environment(run), capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("REACHED")), None)
    if line is None:
        raise SystemExit(f"{arguments[:1]} never got there:\n{done.stderr[-2000:]}")
    modules: defaultdict[str, float] = defaultdict(float)
    for own_us, name in IMPORT_TIME.findall(done.stderr):
        modules[name] += int(own_us) / 1e6
    return Start(float(line.split()[1]) - start, modules)


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
        programs = {
            "imports alone": ["-c", BASELINE.format(code=str(run / "code"), cpu=cpu)],
            "entrypoint.py": [str(run / "code" / "entrypoint.py")],
        }
        measured: dict[str, list[Start]] = {name: [] for name in programs}
        for number in range(options.runs + 1):
            for name, arguments in programs.items():
                found = measure(arguments, run)
                if number > 0:
                    measured[name].append(found)
    return report(measured["imports alone"], measured["entrypoint.py"])


def report(base: list[Start], ours: list[Start]) -> int:
    """Print the table of medians; return 1 where the target is missed."""
    pairs = list(zip(base, ours, strict=True))
    outside = statistics.median(mine.outside_s - its.outside_s for its, mine in pairs)
    modules = statistics.median(mine.only_here_s(its) - its.only_here_s(mine) for its, mine in pairs)
    print(f"{'to the first line of configure()':50}{'seconds':>10}")
    print(f"{'imports alone':50}{statistics.median(each.total_s for each in base):10.3f}")
    print(f"{'entrypoint.py':50}{statistics.median(each.total_s for each in ours):10.3f}")
    print(f"{'  work outside of imports, more than alone':50}{outside:10.3f}")
    print(f"{'  modules that the imports alone lack':50}{modules:10.3f}")
    print(f"{'more than the imports alone':50}{outside + modules:10.3f}   target: at most {TARGET_S} s")
    return 0 if outside + modules <= TARGET_S else 1


if __name__ == "__main__":
    sys.exit(main())
