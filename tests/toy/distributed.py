"""A stand-in for entrypoint.py that talks to its peers: torch.distributed, a few steps, and one of the kinds of hang.

Overrides say what it does: toy.iters, toy.seconds (of a step), toy.backend (gloo, nccl, or none: then torch is not
imported), toy.how, and toy.rank and toy.step, which say where. How it can hang: stop (SIGSTOP), loop (in Python), gil
(a C function that holds the interpreter), loader (a worker of a data loader), skip (a collective), other (another
collective than the others), save (never returns), join (does not join the process group), start (does not even begin to
count). With toy.how=slow a step, each save and an evaluation after it take toy.slow_s seconds, and nothing is wrong.
With toy.save_s each save takes so many seconds, and the third one five times as many.
"""

import importlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from launcher.job.watch import heartbeat

RANK, WORLD, LOCAL = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
RUN, ATTEMPT = Path(os.environ["LAUNCHER_RUN_DIR"]), os.environ["LAUNCHER_ATTEMPT"]
HERE = RUN / "attempts" / ATTEMPT


def append(name: str, **line: Any) -> None:
    if RANK == 0:
        with (HERE / name).open("a") as file:
            file.write(json.dumps({"time": time.time(), **line}) + "\n")


def end(iteration: int) -> None:
    record = {"version": 1, "rank": RANK, "host": socket.gethostname(), "pid": os.getpid(), "outcome": "finished"}
    record |= {"reason": None, "iteration": iteration, "time": time.time(), "exception": None, "cause": None}
    with (HERE / "ranks" / f"node-{int(os.environ['NODE_RANK']):04d}.jsonl").open("a") as file:
        file.write(f"\n{json.dumps(record)}\n")


class Stuck:
    """A data set whose third sample never comes."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> int:
        while index == 2:
            time.sleep(1)
        return index


def hang(how: str) -> None:
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "gil":
        sum(range(10**15))
    if how == "loader":
        from torch.utils.data import DataLoader

        for _ in DataLoader(Stuck(), num_workers=1):
            pass
    while how in ("loop", "save", "start", "join"):
        if how != "loop":
            time.sleep(1)


class Toy:
    """The training."""

    def __init__(self, told: dict[str, Any], beat: heartbeat.Heartbeat) -> None:
        self.told, self.beat = told, beat
        self.how = str(told.get("toy.how", "none"))
        self.mine = int(told.get("toy.rank", WORLD - 1)) == RANK
        self.at = int(told.get("toy.step", 5))
        self.slow_s = float(told.get("toy.slow_s", 0))

    def begin(self) -> None:
        self.alone = self.told.get("toy.backend") == "none"
        if self.alone:
            return
        import torch
        import torch.distributed as dist

        if self.how == "join" and self.mine:
            hang("join")
        backend = str(self.told.get("toy.backend", "gloo"))
        self.device = torch.device("cuda", LOCAL) if backend == "nccl" else torch.device("cpu")
        if backend == "nccl":
            torch.cuda.set_device(self.device)
        dist.init_process_group(backend)

    def step(self, step: int) -> None:
        here = self.mine and step == self.at
        if here and self.how in ("stop", "loop", "gil", "loader"):
            hang(self.how)
        time.sleep(self.slow_s if self.how == "slow" and step == self.at else float(self.told["toy.seconds"]))
        if not self.alone:
            self.communicate(here)

    def communicate(self, here: bool) -> None:
        import torch
        import torch.distributed as dist

        gradient = torch.ones(1024, device=self.device)
        if here and self.how == "other":
            dist.broadcast(torch.ones(7, device=self.device), 0)
        elif not (here and self.how == "skip"):
            dist.all_reduce(gradient)
        norms = [torch.zeros(1, device=self.device) for _ in range(WORLD)]
        dist.all_gather(norms, gradient.norm().reshape(1))
        sum(float(norm) for norm in norms)

    def save(self, step: int) -> None:
        self.beat.enter("saving")
        if self.how == "save" and self.mine and step >= self.at:
            hang("save")
        if self.how == "slow" and RANK == 0:
            time.sleep(self.slow_s)
        if RANK == 0:
            time.sleep(float(self.told.get("toy.save_s", 0)) * (5 if step == 15 else 1))
        if not self.alone:
            import torch.distributed as dist

            dist.barrier()
        append("timeline.jsonl", rank=RANK, event="save", seconds=0.0, iteration=step)
        self.beat.enter("between steps")

    def evaluate(self) -> None:
        self.beat.enter("evaluating")
        time.sleep(self.slow_s)
        self.beat.enter("between steps")


def main() -> int:
    told = {each["key"]: each.get("value") for each in json.loads((RUN / "argv.json").read_text())["overrides"]}
    told.setdefault("toy.seconds", 0.02)
    iters = int(told.get("toy.iters", 20))
    if told.get("toy.how") == "start" and int(told.get("toy.rank", WORLD - 1)) == RANK:
        hang("start")
    beat = heartbeat.join()
    if told.get("toy.backend") != "none":
        importlib.import_module("torch.distributed")
    beat.enter("setting up")
    toy = Toy(told, beat)
    toy.begin()
    append("timeline.jsonl", rank=RANK, event="train_start", seconds=None)
    for step in range(1, iters + 1):
        began = time.time()
        beat.enter("first step" if step == 1 else "training step")
        toy.step(step)
        beat.step_done()
        line: dict[str, Any] = {"iteration": step, "train_iters": iters, "loss": 10.0 / step, "grad_norm": 1.0}
        line |= {
            "learning_rate": 1e-3,
            "seconds": time.time() - began,
            "tokens": 64,
            "tokens_per_second": 64.0,
            "tflops_per_gpu": None,
        }
        append("metrics.jsonl", **line, memory_bytes=None)
        if step % 5 == 0:
            toy.save(step)
            if toy.how == "slow":
                toy.evaluate()
    beat.enter("ending")
    end(iters)
    return 0


if __name__ == "__main__":
    sys.exit(main())
