"""A stand-in for entrypoint.py: the same files, the same end, no Megatron; the standard library alone.

Overrides say what it does: toy.iters, toy.seconds (of an iteration), toy.save_every, toy.seed, toy.start_seconds,
toy.nan_from (the step from which the loss is NaN), toy.fail_rank with toy.fail_step and toy.fail_how (raise, user,
exit, kill, hang), toy.save_seconds (of the save at a stop), toy.term=save (SIGTERM saves and stops). With toy.answers
its ranks answer `launcher stacks`. With toy.fail_after=FILE it waits for that file before it fails. With
toy.bad_attempts=N the loss is NaN and ranks fail in the first N attempts alone. toy.lemon names a file: ranks on a
node that it lists are killed after six iterations. What it was given lies afterwards in ranks/NNNN.seen.json. Like
weights it has a state that each step changes and that a checkpoint holds; the loss depends on it, so on all earlier
steps, the seed and the world size. A resumed run repeats the losses of an uninterrupted one only if it loads the state
of the very iteration that it continues.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

START = time.time()
RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
RUN, ATTEMPT = Path(os.environ["LAUNCHER_RUN_DIR"]), os.environ["LAUNCHER_ATTEMPT"]
HERE = RUN / "attempts" / ATTEMPT
signalled: list[int] = []


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def append(name: str, **line: Any) -> None:
    """One line of a file that rank 0 alone writes."""
    if RANK == 0:
        with (HERE / name).open("a") as file:
            file.write(json.dumps({"time": time.time(), **line}) + "\n")


def answer_with_stacks(told: dict[str, Any]) -> None:
    """With toy.answers, write the main thread's stack when asked, as launcher/job/watch/heartbeat.py does."""
    if not told.get("toy.answers"):
        return
    import faulthandler
    import tempfile

    path = Path(tempfile.mkdtemp()) / f"stack-{os.environ['LOCAL_RANK']}"
    faulthandler.register(signal.SIGRTMAX - 4, file=path.open("ab"), all_threads=False)
    path.unlink()
    path.parent.rmdir()


def event(name: str, seconds: Any = None, **more: Any) -> None:
    append("timeline.jsonl", rank=RANK, event=name, seconds=seconds, **more)


def end(outcome: str, iteration: int, reason: Any = None, exception: Any = None, cause: Any = None) -> int:
    """Leave the rank's record; returns the exit status."""
    record = {"version": 1, "rank": RANK, "host": socket.gethostname(), "pid": os.getpid(), "outcome": outcome}
    record |= {"reason": reason, "iteration": iteration, "time": time.time(), "exception": exception, "cause": cause}
    with (HERE / "ranks" / f"node-{int(os.environ['NODE_RANK']):04d}.jsonl").open("ab", buffering=0) as file:
        file.write(f"\n{json.dumps(record)}\n".encode())
        os.fsync(file.fileno())
    event("end", time.time() - START, outcome=outcome, reason=reason, iteration=iteration)
    print(f"rank {RANK} {outcome} at iteration {iteration}", flush=True)
    return 0 if outcome != "failed" else 2 if cause == "user" else 1


NOT_FINITE = "nan"
"""The state of a training that has diverged: it never recovers, and a checkpoint of it is as bad."""


def advance(state: str, step: int) -> str:
    """The state after a step, from the one before."""
    return state if state == NOT_FINITE else hashlib.sha256(f"{state} {step}".encode()).hexdigest()


def loss(state: str, step: int) -> float:
    """Falls with the step; the digits behind come from the state."""
    return float("nan") if state == NOT_FINITE else float(10.0 / step**0.5 + int(state[:8], 16) / 2**36)


def fail(how: str, step: int) -> int:
    if how == "exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while how == "hang":
        time.sleep(1)
    trace = {
        "type": "ValueError",
        "message": "asked to fail",
        "where": f"toy.py:1 in step {step}",
        "traceback": "Traceback",
    }
    print("ValueError: asked to fail", file=sys.stderr, flush=True)
    return end("failed", step - 1, exception=trace, cause="user" if how == "user" else "program")


def superseded() -> Any:
    """Why this attempt may save no more, by the launcher's own fence in the run's code; None while it may."""
    if not (RUN / "code/launcher").exists():
        return None
    sys.path.insert(0, str(RUN / "code"))
    from launcher.job.rank import read_rank
    from launcher.job.watch.fence import Fence

    return Fence(read_rank(os.environ)).superseded()


def save(step: int, state: str) -> None:
    if (reason := superseded()) is not None:
        sys.exit(end("stopped", step, reason))
    if RANK == 0:
        folder = RUN / "checkpoints" / f"iter_{step:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / "state.json", json.dumps({"state": state}))
        write(RUN / "checkpoints" / "latest_checkpointed_iteration.txt", f"{step}\n")
        (RUN / "set-aside" / f"{folder.name}.json").unlink(missing_ok=True)
        event("save", 0.0, iteration=step)


def resume(state: str) -> tuple[int, str]:
    """The iteration and the state to continue from: those of the newest checkpoint that is not set aside."""
    tracker = RUN / "checkpoints" / "latest_checkpointed_iteration.txt"
    if ATTEMPT == "000" or not tracker.exists():
        return 0, state
    newest = f"iter_{int(tracker.read_text()):07d}"
    saved = [path for path in sorted(tracker.parent.glob("iter_*")) if path.name <= newest]
    good = [path for path in saved if not (RUN / "set-aside" / f"{path.name}.json").exists()]
    step = int(good[-1].name.removeprefix("iter_"))
    state = json.loads((good[-1] / "state.json").read_text())["state"]
    event("checkpoint_loaded", 0.0, iteration=step)
    return step, state


def main() -> int:
    argv = (RUN / "argv.json").read_text()
    told = {each["key"]: each.get("value") for each in json.loads(argv)["overrides"]}
    iters, seconds, every = (
        int(told.get("toy.iters", 5)),
        float(told.get("toy.seconds", 0.02)),
        int(told.get("toy.save_every", 5)),
    )
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # Under Slurm sbatch.sh learns what SIGTERM means, and writes `stop` or ends the step.
    if told.get("toy.term") == "save" or (HERE / "start").exists():
        signal.signal(signal.SIGTERM, lambda number, _frame: signalled.append(number))
    # A test that sees this file may send a signal.
    seen = {"argv": sys.argv, "argv_json": argv, "environment": dict(os.environ), "cwd": str(Path.cwd())}
    seen["machine"] = os.uname().machine
    write(HERE / "ranks" / f"{RANK:04d}.seen.json", json.dumps(seen))
    event("imports", time.time() - START)
    answer_with_stacks(told)
    time.sleep(float(told.get("toy.start_seconds", 0)))
    event("model", time.time() - START)
    step, state = resume(f"{told.get('toy.seed', 1)} {WORLD}")
    start, lemons = step, Path(told["toy.lemon"]).read_text().split() if "toy.lemon" in told else []
    bad = int(ATTEMPT) < int(told.get("toy.bad_attempts", 1000))
    event("train_start", None)
    while step < iters:
        step += 1
        begin = time.time()
        if bad and told.get("toy.fail_rank") == RANK and step == int(told.get("toy.fail_step", 3)):
            while "toy.fail_after" in told and not Path(told["toy.fail_after"]).exists():
                time.sleep(0.05)
            return fail(told.get("toy.fail_how", "raise"), step)
        if step == start + 7 and os.environ.get("SLURMD_NODENAME") in lemons:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        took = time.time() - begin
        state = NOT_FINITE if bad and step >= int(told.get("toy.nan_from", iters + 1)) else advance(state, step)
        line = {"iteration": step, "train_iters": iters, "loss": loss(state, step), "grad_norm": 1.0 / step}
        line |= {"learning_rate": 1e-3, "seconds": took, "tokens": 64 * WORLD, "tokens_per_second": 64 * WORLD / took}
        append("metrics.jsonl", **line, tflops_per_gpu=None, memory_bytes=None)
        print(f"iteration {step}/{iters}", flush=True)
        while signalled and told.get("toy.term") != "save" and not (HERE / "stop").exists():
            time.sleep(0.02)  # as a real rank whose peers have ended, it gets no further
        stop = (HERE / "stop").exists()
        if stop or (signalled and told.get("toy.term") == "save"):
            time.sleep(float(told.get("toy.save_seconds", 0)))
            save(step, state)
            why = (HERE / "stop").read_text().strip() if stop else "signal SIGTERM"
            return end(
                "stopped", step, why if why in ("time limit", "preempted", "requeued") or not stop else "requested"
            )
        if step % every == 0 or step == iters:
            save(step, state)
    return end("finished", step)


if __name__ == "__main__":
    sys.exit(main())
