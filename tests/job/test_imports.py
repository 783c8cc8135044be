"""How a rank imports what is in code/: the same modules as ever, few calls, no byte code left there."""

import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.job.ranks import ROOT

LISTED = """
import sys
from pathlib import Path
code = Path(sys.path[0])
if sys.argv[1] == "taken over":  # as entrypoint.py does it
    wanted, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    from launcher.job import imports
    imports.take_over(code)
    sys.dont_write_bytecode = wanted
import importlib
{body}
for name in sorted(sys.modules):
    module = sys.modules[name]
    if name.partition(".")[0] in ("launcher", "mine", "other"):
        print(name, getattr(module, "__file__", None), list(getattr(module, "__path__", ())))
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A code/ with the launcher's half of the job, and files of the user's beside it."""
    directory = tmp_path_factory.mktemp("run") / "code"
    for name in ("__init__.py", "contract", "job"):
        source = ROOT / "launcher" / name
        target = directory / "launcher" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True)
            shutil.copyfile(source, target)
    (directory / "mine").mkdir()
    (directory / "mine/part.py").write_text("VALUE = 1\n")
    (directory / "other.py").write_text("VALUE = 2\n")
    return directory


def imported(code: Path, how: str, body: str) -> str:
    (code / "program.py").write_text(LISTED.format(body=body))
    environment = {"PATH": os.environ["PATH"]}  # with it byte code would be written
    command = [sys.executable, "-S", str(code / "program.py"), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if not line.startswith("launcher.job.imports ")]
    return "\n".join(shown)


EVERYTHING = """
for path in sorted((code / "launcher/contract").rglob("*.py")):
    name = ".".join(path.relative_to(code).with_suffix("").parts).removesuffix(".__init__")
    importlib.import_module(name)
import launcher.job.record, launcher.job.watch.fence, launcher.job.environment
import mine.part, other
"""


def test_the_same_modules_are_imported(code: Path) -> None:
    as_ever = imported(code, "as ever", EVERYTHING)
    assert "launcher.contract.fabrics.verdict" in as_ever
    assert imported(code, "taken over", EVERYTHING) == as_ever


def test_no_byte_code_is_left_in_code(code: Path) -> None:
    for left in list(code.rglob("__pycache__")):
        shutil.rmtree(left)
    body = "import launcher.contract.verdict, launcher.job.record, launcher.job.watch.fence, mine.part, other"
    imported(code, "taken over", body)
    assert list(code.rglob("*.pyc")) == []
    imported(code, "as ever", body)
    names = {path.name.partition(".")[0] for path in code.rglob("*.pyc")}
    assert {"verdict", "part", "other"} <= names, "this Python writes byte code"


def test_a_module_that_appears_later_is_found_once_the_caches_are_invalidated(code: Path) -> None:
    body = """
try:
    import appeared
except ImportError:
    (code / "appeared.py").write_text("VALUE = 3")
importlib.invalidate_caches()
import appeared
assert appeared.VALUE == 3
(code / "appeared.py").unlink()
"""
    imported(code, "taken over", body)


def test_a_module_without_a_source_is_found(code: Path, tmp_path: Path) -> None:
    source = tmp_path / "sealed.py"
    source.write_text("VALUE = 4\n")
    py_compile.compile(str(source), cfile=str(code / "sealed.pyc"))
    imported(code, "taken over", "import sealed\nassert sealed.VALUE == 4")
    (code / "sealed.pyc").unlink()
