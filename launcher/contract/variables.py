"""Names of environment variables that mean something to the launcher and to the job."""

import re
from collections.abc import Iterator, Mapping
from typing import Optional

from launcher.contract.patterns import later

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What step.sh derives from Slurm's variables; they cannot be overridden."""

RUN_VARIABLES = ("LAUNCHER_RUN_DIR", "LAUNCHER_ATTEMPT")
"""Where a rank finds its request and leaves its files."""

# Whole words between underscores: TOKENIZERS_PARALLELISM is not a secret.
_SECRET = later(
    r"(^|_)(TOKENS?|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|AUTH|COOKIE|KEY|PAT)(_|$)",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Return whether the value of the variable `name` has to be kept out of files, logs and command lines."""
    return _SECRET.search(name) is not None


# A key of a configuration is seldom a secret: pad_token, moe_token_dispatcher_type and num_key_value_heads are not.
_SECRET_KEY = later(
    r"(?:.*_)?(?:api_?key|access_?key|private_?key|secret|secret_key|password|passwd|passphrase|credentials?|bearer)"
    r"|(?:.*_)?(?:hf|hub|api|auth|access|bearer|wandb|comet|mlflow|github)_?token|token",
    re.IGNORECASE,
)
_URL = later(r"(?<![A-Za-z0-9+.-])(?P<before>[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s:@]*:)(?P<value>(?!\$)[^/?#\s@]+)(?=@)")
_ASSIGNED = later(r"""(?:^|[\s,;:'"=({])(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>(?!\$)[^\s,;'"]+)""")
_IN_MAPPING = later(
    r"""(?<![A-Za-z0-9_.])(?P<name>[A-Za-z_][A-Za-z0-9_.]*)["']?\s*:\s*["']?(?P<value>(?!\$)[^\s,}'"\]]+)"""
)
_TOKEN = later(
    r"\b(?:hf_[A-Za-z0-9]{24,}|gh[pousr]_[A-Za-z0-9]{24,}|github_pat_\w{24,}|glpat-[\w-]{20,}|nvapi-[\w-]{20,}"
    r"|sk-[\w-]{24,}|xox[abp]-[\w-]{20,}|AKIA[0-9A-Z]{16})"
)
_TOKEN_MARKS = ("hf_", "gh", "glpat-", "nvapi-", "sk-", "xox", "AKIA")
"""One of these is in every text that _TOKEN matches."""
_CODE_NAME = (
    r"[A-Za-z0-9_]*(?:api_?key|access_?key|private_?key|secret|secret_key|password|passwd|passphrase|credentials?"
    r"|(?:hf|hub|api|auth|access|bearer|wandb|comet|mlflow|github)_?token)"
)
_IN_CODE = later(
    rf"""(?<![/\w])(?P<name>{_CODE_NAME})(?:["']\s*\]?\s*[:=,]|\s*(?::\s*\w+\s*)?=)\s*["'](?P<value>[^"'\s${{<]{{8,}})["']""",
    re.IGNORECASE,
)
_HINT_OF_SECRET = later(
    r"api_?key|access_?key|private_?key|secret|passw|passphrase|credential|_token|://[^/\s]*@|hf_|gh[pousr]_|github_pat_"
    r"|glpat-|nvapi-|sk-|xox|AKIA",
    re.IGNORECASE,
)
_NAME_OR_OPTION = later(r"[A-Z][A-Z0-9_]*|-.*")
_PLACEHOLDER = later(r"password|passwd|pass|pw|secret|token|x+|\*+|\.+|<.*>", re.IGNORECASE)

_HARMLESS = later(
    r"(?:NCCL|TORCH|TORCHINDUCTOR|PYTORCH|CUDA|CUBLAS|CUDNN|NVTE|NVSHMEM|NVIDIA|MELLANOX|OMP|MKL|OPENBLAS|KMP|GLOO|UCX|FI|RDMAV"
    r"|OMPI|PMIX|PMI|SLURM|SLURMD|SRUN|SBATCH|LAUNCHER|TRITON|DEEP_EP|LC|MALLOC|TF|XLA)_[A-Z0-9_]+"
    r"|RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|NODE_RANK|MASTER_ADDR|MASTER_PORT|PATH|HOME|USER|LOGNAME|LANG|TZ|TERM"
    r"|SHELL|PWD|OLDPWD|SHLVL|HOSTNAME|TMPDIR|TMP|TEMP|LD_LIBRARY_PATH|LD_PRELOAD|PYTHON[A-Z]+|VIRTUAL_ENV|CPATH"
    r"|TOKENIZERS_PARALLELISM|HF_HOME|HF_HUB_CACHE|HF_HUB_OFFLINE|HF_DATASETS_OFFLINE|HF_DATASETS_CACHE|HF_ENDPOINT"
    r"|TRANSFORMERS_OFFLINE|TRANSFORMERS_CACHE|XDG_[A-Z_]+|NO_PROXY|no_proxy|GPU_DEVICE_ORDINAL|ROCR_VISIBLE_DEVICES|_",
    re.ASCII,
)
"""Names of variables whose values may be recorded, unless the name or the value looks like a secret."""


def is_harmless(name: str, value: str) -> bool:
    """Return whether the value of the variable `name` may be recorded although only the name was given."""
    return _HARMLESS.fullmatch(name) is not None and not is_secret(name) and secret_in(value) is None


def is_secret_key(key: str) -> bool:
    """Return whether a key of a configuration or an argument of a recipe looks like one that holds a secret.

    Below `env_vars` a key is the name of an environment variable.
    """
    above, _, name = key.lstrip("+~").rpartition(".")
    return is_secret(name) if above == "env_vars" else _SECRET_KEY.fullmatch(name) is not None


def secret_in(text: str) -> Optional[str]:
    """Return which secret a text contains by value, without the value; None where none is seen.

    That is a password in a URL, a value assigned to a secret-like variable, or a token of a known form.
    """
    if "://" in text and _URL.search(text):
        return "a password in a URL"
    if "=" in text:
        name = next((found["name"] for found in _ASSIGNED.finditer(text) if is_secret(found["name"])), None)
        if name is not None:
            return f"a value of {name}"
    return "a token" if any(map(text.__contains__, _TOKEN_MARKS)) and _TOKEN.search(text) else None


def secret_of_assignment(text: str) -> Optional[str]:
    """Return the key of a KEY=VALUE that would be given a secret by value; None for any other.

    Null, an empty value and an interpolation (`${...}`) are none.
    """
    key, given, value = text.partition("=")
    key, value = key.strip().lstrip("+~"), value.strip()
    if not given or value.strip("'\"") in ("", "null") or value.lstrip("'\"").startswith("${"):
        return None
    if value.startswith("{"):
        inner = (f"{key}.{found['name']}" for found in _IN_MAPPING.finditer(value) if found["value"] != "null")
        return next((name for name in inner if is_secret_key(name)), None)
    return key if is_secret_key(key) else None


def secret_in_code(text: str) -> Optional[tuple[str, int]]:
    """Return the secret that a program's text contains by value, and its line; None where none is seen."""
    if not _HINT_OF_SECRET.search(text):
        return None
    for found in _IN_CODE.finditer(text):
        if not _NAME_OR_OPTION.fullmatch(found["value"]):
            return f"a value of {found['name']}", text.count("\n", 0, found.start()) + 1
    for pattern, what in ((_URL, "a password in a URL"), (_TOKEN, "a token")):
        for found in pattern.finditer(text):
            value = found.groupdict().get("value") or ""
            if "{" not in found[0] and not _PLACEHOLDER.fullmatch(value):  # f"https://{user}:{password}@host"
                return what, text.count("\n", 0, found.start()) + 1
    return None


_REFERENCE = later(
    r"\\\$|\$(?:(?P<name>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?::-(?P<default>[\w./:,@%+=-]*))?\})", re.ASCII
)


def references(text: str) -> Iterator[tuple[str, Optional[str], str]]:
    r"""Yield the parts of a value: (text, None, "") or ("", NAME, default) for `$NAME`, `${NAME}`, `${NAME:-default}`.

    `\$` is a dollar sign. Anything else, as a command in `$(...)`, is text.
    """
    position = 0
    for found in _REFERENCE.finditer(text):
        if before := text[position : found.start()]:
            yield before, None, ""
        name = found["name"] or found["braced"]
        yield ("$", None, "") if name is None else ("", name, found["default"] or "")
        position = found.end()
    if rest := text[position:]:
        yield rest, None, ""


def expanded(text: str, environment: Mapping[str, str]) -> str:
    """Return a value with its references replaced; a variable that is not set is its default, or empty."""
    return "".join(
        part if name is None else environment.get(name) or default for part, name, default in references(text)
    )
