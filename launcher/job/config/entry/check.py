"""The program of a run that checks a configuration on a compute node: `launcher submit RECIPE --check-on node`.

It is the entrypoint.py of that run. `code/check.json` has the request, `attempts/NNN/check.json` gets the answer.
"""

import json
import os
import sys

from launcher.contract.files import write_json
from launcher.contract.paths import CHECK
from launcher.job import rank, record
from launcher.job.errors import UserError


def main() -> int:
    """Answer the request; the exit status says whether there is an answer, not what it is."""
    try:
        this = rank.read_rank(os.environ)
        record.refuse_second_start(this)
        request = json.loads((this.run_paths.code / CHECK).read_text(encoding="utf-8"))
    except (UserError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if "path" in request["recipe"]:
        request["recipe"]["path"] = str(this.run_paths.code / request["recipe"]["path"])
    from launcher.job.config import check

    write_json(this.paths.path / CHECK, check.reply(request))
    record.write_end(this, record.End("finished"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
