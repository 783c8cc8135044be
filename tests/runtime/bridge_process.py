"""One process with the real Megatron Bridge on CPU that answers many requests: importing it takes longest.

Reads a JSON list of requests from standard input (recipe, arguments, overrides, world_size, and `read`: keys to
report), writes a JSON list of answers. What raises anything but UserError is told by its type.
"""

import json
import logging
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def ask(requests: list[dict[str, Any]], timeout_s: float = 280) -> list[dict[str, Any]]:
    """The answers to `requests`, from a fresh process; AssertionError with its standard error where it failed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.bridge_process"],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from launcher.runtime import check, overrides, recipe
    from launcher.runtime.errors import UserError

    try:
        config = recipe.load(request["recipe"], request.get("arguments", {}), Path(request["base"]))
        overrides.apply(config, request.get("overrides", ()))
        applied = {key: repr(_read(config, key)) for key in request.get("read", ())}
        checked = check.validate(config, request.get("world_size", 1), request.get("overrides", ()))
        untouched = {key: repr(_read(config, key)) for key in request.get("read", ())}
        return {
            "ok": True,
            "read": applied,
            "after": untouched,
            "warnings": checked.warnings,
            **check.resolved(checked.config),
        }
    except UserError as error:
        return {"ok": False, "error": error.message, "where": error.where, "hint": error.hint, "type": "UserError"}
    except BaseException as error:
        return {"ok": False, "error": traceback.format_exc(), "where": None, "hint": None, "type": type(error).__name__}


def _read(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = config[name] if isinstance(config, dict) else getattr(config, name)
    return config


def main() -> None:
    """Answer the requests of standard input."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from launcher.runtime import cpu

    cpu.enable()
    print()
    print(json.dumps([_answer(request) for request in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
