"""Standard output as a channel for answers, where another program reads them."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def on_stdout() -> Iterator[TextIO]:
    """Reserve standard output for answers: what libraries print, in Python or in C, goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    before, sys.stdout = sys.stdout, sys.stderr
    try:
        with os.fdopen(kept, "w", encoding="utf-8") as out:
            yield out
    finally:
        sys.stdout = before
