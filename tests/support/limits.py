"""Time limits of tests, all scaled by one variable: `seconds(180)`.

TEST_TIME_SCALE=3 triples every limit, for machines that are slower or busier than two free cores. A limit is there to
end what hangs: none of them is a measurement.
"""

import os

SCALE = float(os.environ.get("TEST_TIME_SCALE", "1"))


def seconds(limit: float) -> float:
    """Return `limit`, in seconds on two free cores, scaled for this machine."""
    return limit * SCALE
