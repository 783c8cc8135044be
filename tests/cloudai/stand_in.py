"""A stand-in for Bridge's scripts/performance/setup_experiment.py, written by us for the tests of exec mode.

It does what those of v0.3.0 to v0.5.0 do as far as a launcher can see it: it takes the same flags, writes a batch
script with the secrets that it was given below $NEMORUN_HOME/experiments, calls `sbatch --requeue --parsable SCRIPT`,
follows the job, writes the measured values, and ends with status 1 because it knows no golden ones. The job prints
iterations in the form of Megatron Bridge. `toy.KEY=VALUE` among the overrides says what happens.
"""

import argparse
import html
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

JOB = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --partition={partition}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={ranks}
#SBATCH --time=5
#SBATCH --output={directory}/sbatch_{name}_%j.out
set -evx
export HF_TOKEN={token}
export TRANSFORMERS_OFFLINE=0
echo "$SLURM_JOB_ID" >>"$NEMORUN_HOME/../../../counted"
date +%s.%N >"$NEMORUN_HOME/began"
set +e
srun --output {directory}/log-{name}_%j_0.out bash {directory}/scripts/{name}.sh
exitcode=$?
date +%s.%N >"$NEMORUN_HOME/ended"
[ $exitcode -eq 0 ] || exit {status}
"""

TASK = """\
set -euo pipefail
bash -c '{before} python3 -S {program} {steps} {total} {nan} {arguments}'
"""

PROGRAM = """\
import os, sys, time
steps, total, nan = (int(word) for word in sys.argv[1:4])
if os.environ.get("SLURM_PROCID", "0") == "0":
    print("arguments:", sys.argv[4:])
    print("variable:", os.environ.get("WHERE"), "token of", len(os.environ.get("HF_TOKEN", "")), flush=True)
    for step in range(1, steps + 1):
        time.sleep(0.02)
        loss = "NAN" if step == nan else f"{11 - step / 10:.6E}"
        print(f"Step Time : {1.5 + step / 100:.2f}s GPU utilization: {400 + step:.1f}MODEL_TFLOP/s/GPU")
        print(f" [2026-11-26 06:00:00] iteration {step:8d}/{total:8d} | consumed samples: {step * 8:12d} |"
              f" elapsed time per iteration (ms): {1500 + step * 10:.1f} | learning rate: 1.0E-04 |"
              f" global batch size:     8 | lm loss: {loss} | loss scale: 1.0 | grad norm: 1.234 |"
              f" number of skipped iterations:   0 | number of nan iterations: {int(step == nan):3d} |", flush=True)
sys.exit(0 if steps == total else 7)
"""


def markup(text: str) -> str:
    return html.escape(text).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


def main() -> int:
    parser = argparse.ArgumentParser()
    for flags in ("-m", "-mr", "-g", "-p", "-ng", "-gn", "-hf", "--additional_slurm_params", "--detach", "-i", "-wdk"):
        parser.add_argument(flags)
    parser.add_argument("-cb", action="append", default=[])
    args, rest = parser.parse_known_args()
    toy = {
        key: value for key, _, value in (word.removeprefix("toy.").partition("=") for word in rest if "toy." in word)
    }
    print("INFO", json.dumps(sys.argv[1:]), flush=True)
    time.sleep(float(toy.get("wait", "0")))
    if "broken" in toy:
        print("AssertionError: asked to break", flush=True)
        return 1
    home = Path(os.environ["NEMORUN_HOME"])
    name = f"pretrain_{args.mr}"
    experiment = home / "experiments" / name / f"{name}_{time.time_ns()}"
    directory = experiment / name
    directory.mkdir(parents=True)
    (directory / "program.py").write_text(PROGRAM)
    (directory / "configs").mkdir()
    (directory / "configs/ConfigContainer.yaml").write_text("train:\n  global_batch_size: 8\nmodel:\n  num_layers: 2\n")
    script = experiment / f"{name}_sbatch.sh"
    total = int(toy.get("iters", "5"))
    values = {
        "name": name,
        "partition": args.p,
        "nodes": -(int(args.ng) // -int(args.gn)),
        "ranks": args.gn,
        "directory": directory,
        "token": args.hf,
        # As NeMo-Run's template writes them: joined, and quotes replaced as on a web page.
        "before": markup("".join(f"{command} ; " for command in args.cb)),
        "arguments": markup(" ".join(sys.argv[1:])),
        "program": directory / "program.py",
        "steps": toy.get("die", total),
        "total": total,
        "nan": toy.get("nan", "0"),
        # As where a step's end is lost on its way to the batch script.
        "status": toy.get("status", "$exitcode"),
    }
    script.write_text(JOB.format(**values))
    (directory / "scripts").mkdir()
    (directory / f"scripts/{name}.sh").write_text(TASK.format(**values))
    for _ in range(int(toy.get("submissions", "1"))):
        answered = subprocess.run(["sbatch", "--requeue", "--parsable", str(script)], capture_output=True, text=True)
        print(answered.stdout, answered.stderr, f"Job id: {answered.stdout.strip()}", flush=True)
        if answered.returncode:
            return 1
        while True:
            asked = ["squeue", "--noheader", "--format=%T", f"--jobs={answered.stdout.strip()}"]
            states = subprocess.run(asked, capture_output=True, text=True).stdout.split()
            if not states or re.fullmatch("COMPLETED|FAILED|CANCELLED|TIMEOUT", states[0]):
                break
            time.sleep(0.2)
    golden = directory / "golden_values/golden.json"
    golden.parent.mkdir()
    golden.write_text(json.dumps({"0": {"lm loss": 10.9, "elapsed time per iteration (ms)": 1510.0}, "alloc": 1.0}))
    print("Convergence check failed due to missing golden values.", flush=True)
    return int(toy.get("ends", "1"))


if __name__ == "__main__":
    sys.exit(main())
