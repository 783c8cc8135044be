"""The program of each rank of a job: `python3 RUN/code/entrypoint.py`, without arguments.

Its parts are in launcher/job: `--check-config` resolves a configuration without training
(launcher/job/config/check.py), `--fetch` fetches what training will read from Hugging Face's hub (launcher/job/fetch),
and PROGRAMS are what is done before and after a training.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

PROGRAMS = {
    "--convert": "launcher.job.convert.program",
    "--data": "launcher.job.data.program",
    "--evaluate": "launcher.job.evaluate",
    "--generate": "launcher.job.convert.generate",
}
"""Modules whose `main` takes a request as JSON text: `entrypoint.py --convert REQUEST`."""


def main() -> int:
    """Run; return the exit status: 0 finished or stopped, 2 the request was wrong, 1 any other failure."""
    if sys.argv[1:] == ["--check-config"]:
        from launcher.job.config import check

        return check.main()
    if sys.argv[1:] == ["--fetch"]:
        from launcher.job.fetch import request

        return request.main()
    if len(sys.argv) == 3 and sys.argv[1] in PROGRAMS:
        return int(import_module(PROGRAMS[sys.argv[1]]).main(sys.argv[2]))
    wanted, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    from launcher.job import imports

    imports.take_over(Path(__file__).parent)
    sys.dont_write_bytecode = wanted
    from launcher.job import rank, record, signals
    from launcher.job.errors import UserError

    signals.ignore_notices()
    try:
        if sys.argv[1:]:
            raise UserError(
                f"the entrypoint takes no arguments, but got {sys.argv[1:]}",
                hint="it reads argv.json of its run directory instead",
            )
        # Before torch is imported, so that these mistakes cost no time on any number of ranks.
        this = rank.read_rank(os.environ)
        record.refuse_second_start(this)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from launcher.job import train

    return train.run(this)


# Saving a checkpoint starts a process that imports this module again; without the guard it would train as well.
if __name__ == "__main__":
    sys.exit(main())
