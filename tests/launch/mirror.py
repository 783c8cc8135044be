"""A program of entrypoint.py's contract that only writes down what it was given: argv.json and its environment."""

import json
import os
import socket
import time
from pathlib import Path


def main() -> None:
    """Leave `ranks/NNNN.seen.json` and the record of an end."""
    run_dir = Path(os.environ["LAUNCHER_RUN_DIR"])
    rank = int(os.environ["RANK"])
    ranks = run_dir / "attempts" / os.environ["LAUNCHER_ATTEMPT"] / "ranks"
    argv = json.loads((run_dir / "argv.json").read_text())
    seen = {"argv": argv, "environ": dict(os.environ), "directory": str(Path.cwd()), "program": __file__}
    (ranks / f"{rank:04d}.seen.json").write_text(json.dumps(seen))
    end = {
        "version": 1,
        "rank": rank,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "outcome": "finished",
        "reason": None,
        "iteration": None,
        "time": time.time(),
        "exception": None,
        "cause": None,
    }
    (ranks / f"{rank:04d}.json").write_text(json.dumps(end))


if __name__ == "__main__":
    main()
