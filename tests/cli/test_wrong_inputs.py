"""Every wrong input ends at once, with the right status and a message of a few lines that names what is wrong."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.api.help import find_messages
from tests.backends.running import TOY
from tests.cli.wrong_inputs import GROUPS, RUN, RUN_ID, Row
from tests.support.cli_server import Answer, Server, server
from tests.support.limits import seconds
from tests.support.quick import few

RECIPE = "def configure(text=None, other=None):\n    return None\n"
LIMIT_S = 5
"""No input may take longer."""


@pytest.fixture(scope="module")
def cli() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of Slurm that a wrong input must not reach; squeue and scontrol know nothing."""
    directory = tmp_path_factory.mktemp("programs")
    for name in ("srun", "sbatch", "squeue", "scontrol", "sinfo", "sacct"):
        text = "exit 1\n" if name.startswith("s") and name not in ("srun", "sbatch") else "touch called\nexit 1\n"
        (directory / name).write_text(f"#!/bin/sh\n{text}")
        (directory / name).chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def finished(cli: Server, programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has finished, of the toy."""
    home = tmp_path_factory.mktemp("finished")
    (home / "small.py").write_text(RECIPE)
    arguments = ("run", "small.py", "--cluster", "local", "--gpus-per-node", "1", "--entrypoint", TOY)
    done = cli.call(arguments, home, environment(home, programs), limit_s=seconds(60))
    assert done.status == 0, done
    (made,) = home.glob("runs/small/*/plan.json")
    made.parent.rename(home / RUN)
    shutil.rmtree(home / RUN / "code/launcher")
    (home / RUN / "checkpoints/iter_0000001").mkdir(parents=True)
    return home / RUN


def environment(home: Path, programs: Path) -> dict[str, str]:
    return {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": str(home),
        "USER": "somebody",
        "LAUNCHER_CLUSTERS": str(home / "clusters"),
        "LAUNCHER_CLUSTER": "local",
        "LANG": "C.UTF-8",
    }


def ended(row: Row, cli: Server, programs: Path, finished: Path, home: Path) -> Answer:
    home.mkdir()
    (home / "small.py").write_text(RECIPE)
    (home / "clusters").mkdir()
    if any(name.startswith(RUN) for name in row.files) or RUN in row.arguments:
        shutil.copytree(finished, home / RUN, symlinks=True)
    row.write(home)
    environ = {**environment(home, programs), **row.environ}
    return cli.call(row.arguments, home, environ, limit_s=seconds(LIMIT_S), output=row.output)


def explained(said: str) -> bool:
    """Return whether the id of an error is one that docs/reference/messages.md has."""
    ids = re.findall(r"\[([\w.]+\.\w+)\]$", said, re.MULTILINE)
    return bool(ids) and all(map(find_messages, ids))


def wrong(row: Row, answer: Answer, home: Path) -> str | None:
    """Return what is wrong with the answer to a wrong input."""
    said = answer.stdout + answer.stderr
    if answer.status is None:
        return f"took longer than {LIMIT_S} s"
    if "Traceback" in said or "internal error" in said or "Exception ignored" in said:
        return "a traceback"
    if answer.status not in (row.status if isinstance(row.status, tuple) else (row.status,)):
        return f"status {answer.status}"
    if row.words.lower() not in said.lower():
        return f"does not say {row.words!r}"
    if len(answer.stderr.encode()) > row.limit_bytes:
        return f"a message of {len(answer.stderr.encode())} bytes"
    if answer.stderr.count("\n") > 8:
        return "a message of many lines"
    if (home / "called").exists():
        return "srun or sbatch was called"
    if answer.status in (2, 3) and "error: " in answer.stderr and not explained(answer.stderr):
        return "an error without an id that `launcher help` explains"
    if "--json" in row.arguments and row.output == "file" and json.loads(answer.stdout)["exit_status"] != row.status:
        return "no object"
    return None


@pytest.mark.parametrize("group", GROUPS)
def test_wrong_inputs(group: str, cli: Server, programs: Path, finished: Path, tmp_path: Path) -> None:
    found = []
    rows = list(GROUPS[group]())
    for number, row in enumerate(rows[:: len(rows) // few(len(rows))]):
        home = tmp_path / str(number)
        answer = ended(row, cli, programs, finished, home)
        if (problem := wrong(row, answer, home)) is not None:
            shown = (
                [each[:80] for each in row.arguments[:6]],
                {k: str(v)[:60] for k, v in row.files.items()},
                dict(row.environ),
            )
            found.append(f"{shown}: {problem}: {answer.status} {answer.stdout[:200]!r} {answer.stderr[:600]!r}")
        shutil.rmtree(home)
    assert not found, f"{len(found)} of {number + 1}:\n" + "\n".join(found)


def test_there_are_at_least_400() -> None:
    assert sum(1 for group in GROUPS.values() for _ in group()) >= 400


def test_the_run_id_is_one() -> None:
    assert RUN.endswith(RUN_ID)
