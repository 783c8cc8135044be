"""Reading TOML with the standard library, or before Python 3.11 with the package that it was taken from."""

import sys

if sys.version_info >= (3, 11):
    from tomllib import loads as loads
else:
    from tomli import loads as loads  # type: ignore[import-not-found]
