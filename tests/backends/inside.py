"""A program that looks around in its container and writes down what it finds; the standard library alone."""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

RUN, RANK = Path(os.environ["LAUNCHER_RUN_DIR"]), int(os.environ["RANK"])
HERE = RUN / "attempts" / os.environ["LAUNCHER_ATTEMPT"]


def text(path: str) -> str | None:
    """A file's content; None if it cannot be read."""
    try:
        return Path(path).read_text()
    except OSError:
        return None


def writes(path: str) -> str:
    """`yes`, or why a file cannot be made there."""
    try:
        Path(path).write_text("x")
    except OSError as error:
        return str(error.strerror)
    return "yes"


def names(path: str) -> list[str]:
    """What is in a directory."""
    return sorted(entry.name for entry in Path(path).iterdir())


def main() -> int:
    told = {each["key"]: each["value"] for each in json.loads((RUN / "argv.json").read_text())["overrides"]}
    mine = f"{RANK}-{os.getpid()}"
    found: dict[str, Any] = {
        "environment": dict(os.environ),
        "cwd": str(Path.cwd()),
        "user": [os.getuid(), os.getgid()],
        "host": socket.gethostname(),
        "made_for": text("/etc/made-for"),
        "hosts": text("/etc/hosts"),
        "root": names("/"),
        "etc": names("/etc"),
        "tmp": [os.access("/tmp", os.W_OK), writes(f"/tmp/{mine}")],
        "shm": writes(f"/dev/shm/launcher-test-{mine}"),
        "null": writes("/dev/null"),
        "writes": {place: writes(f"{place}/{mine}") for place in told.get("look.at", "/etc").split("+")},
        "mounted": {place: names(place) for place in told.get("look.in", "/etc/apt").split("+")},
        "sys_is_read_only": bool(os.statvfs("/sys").f_flag & os.ST_RDONLY),
        "python": sys.executable,
    }
    Path(f"/dev/shm/launcher-test-{mine}").unlink(missing_ok=True)
    time.sleep(float(told.get("look.seconds", 0)))
    (HERE / "ranks" / f"{RANK:04d}.found.json").write_text(json.dumps(found))
    record: dict[str, Any] = {
        "version": 1,
        "rank": RANK,
        "host": found["host"],
        "pid": os.getpid(),
        "outcome": "finished",
    }
    record |= {"reason": None, "iteration": 1, "time": time.time(), "exception": None, "cause": None}
    with (HERE / "ranks" / f"node-{int(os.environ['NODE_RANK']):04d}.jsonl").open("a") as file:
        file.write(f"\n{json.dumps(record)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
