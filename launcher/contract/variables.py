"""Names of environment variables that mean something to the launcher and to the job."""

import re

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What step.sh derives from Slurm's variables; they cannot be overridden."""

RUN_VARIABLES = ("LAUNCHER_RUN_DIR", "LAUNCHER_ATTEMPT")
"""Where a rank finds its request and leaves its files."""

# Whole words between underscores: TOKENIZERS_PARALLELISM is not a secret.
_SECRET = re.compile(
    r"(^|_)(TOKENS?|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|AUTH|COOKIE|KEY|PAT)(_|$)",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Return whether the value of the variable `name` has to be kept out of files, logs and command lines."""
    return _SECRET.search(name) is not None
