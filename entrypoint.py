"""The program of each rank of a job: `python3 RUN/code/entrypoint.py`, without arguments.

Its parts are in launcher/job: `--check-config` resolves a configuration without training
(launcher/job/config/check.py), `--convert` converts weights (launcher/job/convert), `--data` prepares training data
(launcher/job/data), and `--fetch` fetches what training will read from Hugging Face's hub (launcher/job/fetch).
"""

import os
import sys
from pathlib import Path


def main() -> int:
    """Run; return the exit status: 0 finished or stopped, 2 the request was wrong, 1 any other failure."""
    if sys.argv[1:] == ["--check-config"]:
        from launcher.job.config import check

        return check.main()
    if sys.argv[1:] == ["--fetch"]:
        from launcher.job.fetch import request

        return request.main()
    if sys.argv[1:2] == ["--convert"] and len(sys.argv) == 3:
        from launcher.job.convert import program

        return program.main(sys.argv[2])
    if sys.argv[1:2] == ["--data"] and len(sys.argv) == 3:
        from launcher.job.data import program as data

        return data.main(sys.argv[2])
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
