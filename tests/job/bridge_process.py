"""One process with the real Megatron Bridge on CPU that answers many requests: importing it takes longest.

Reads a JSON list of requests from standard input (recipe, arguments, overrides, world_size, and `read`: keys to
report), writes a JSON list of answers. What raises anything but UserError is answered by its type. With --patches the
first answer is, for each patch of the CPU back end, whether it fits and is needed right before it is applied.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.limits import seconds
from tests.support.warm import warm_python

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[2]
_ANSWERS: dict[str, dict[str, Any]] = {}


def ask(
    requests: list[dict[str, Any]], timeout_s: float = 280, python: str = sys.executable, *options: str
) -> list[Any]:
    """The answers to `requests`, from a process of their own; AssertionError with its standard error where it failed.

    Without options it is a fork that has Megatron imported already.
    """
    if not options:
        python = warm_python(python)
    done = subprocess.run(
        [python, "-m", "tests.job.bridge_process", *options],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        timeout=seconds(timeout_s),
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def answers_to_all(factory: "pytest.TempPathFactory") -> dict[str, dict[str, Any]]:
    """The answers to the tables of right and wrong requests, by name or message, asked once in a test session."""
    if not _ANSWERS:
        from tests.job.right_requests import EFFECTS
        from tests.job.wrong_requests import BROKEN, GOOD, ON_CPU, TABLE

        base = factory.mktemp("recipes")
        shutil.copy(ROOT / "recipes" / "vanilla_gpt_pretrain.py", base)
        for name, text in {"table_recipe.py": GOOD, **BROKEN}.items():
            (base / name).write_text(text)
        requests = {row.says: row.request(str(base)) for row in TABLE} | {"on cpu": {**ON_CPU, "base": str(base)}}
        for name, (given, effects) in EFFECTS.items():
            read = ["scheduler.lr_decay_style", "ddp.param_name_patterns_for_fp32_local_accumulation", *effects]
            recipe = {"path": "vanilla_gpt_pretrain.py", "function": "configure"}
            requests[name] = {"recipe": recipe, "base": str(base), "overrides": given, "read": read}
        _ANSWERS.update(zip(requests, ask(list(requests.values())), strict=True))
    return _ANSWERS


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from launcher.job.config import check, overrides, recipe
    from launcher.job.errors import UserError
    from tests.job.override_records import override_records

    try:
        if "options" in request:
            os.chdir(request["base"])
            return check.answer({**request, "overrides": override_records(request["overrides"])})
        config = recipe.load(request["recipe"], request.get("arguments", {}), Path(request["base"]))
        wanted = overrides.read(override_records(request.get("overrides", ())))
        overrides.apply(config, wanted)
        applied = {key: repr(_read(config, key)) for key in request.get("read", ())}
        checked = check.validate(config, request.get("world_size", 1), wanted)
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
    answers: list[Any] = [_applied()] if "--patches" in sys.argv else []
    from launcher.job import cpu

    cpu.enable()
    answers += [_answer(request) for request in json.load(sys.stdin)]
    print()
    print(json.dumps(answers))


def _applied() -> list[tuple[str, bool, bool]]:
    from launcher.job.cpu import enabling

    found = []
    for patch in enabling.patches():
        found.append((patch.name, patch.fits(), patch.needed()))
        patch.apply()
    enabling._enabled = True
    return found


if __name__ == "__main__":
    main()
