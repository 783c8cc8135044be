"""Short commands: what they answer, and how they end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher._util.errors import CommandError, MissingProgramError
from launcher._util.processes import group_members
from launcher._util.shell import LocalShell
from tests.support.limits import seconds


def test_what_a_program_answered() -> None:
    result = LocalShell().run(["sh", "-c", "cat; echo oops >&2; exit 3"], input="é\n", check=False)
    assert (result.status, result.stdout, result.stderr) == (3, "é\n", "oops\n")
    assert LocalShell().run(["printf", r"\377"]).stdout == "\N{REPLACEMENT CHARACTER}"
    with pytest.raises(CommandError, match="ended with status 3: oops"):
        LocalShell().run(["sh", "-c", "echo oops >&2; exit 3"])


def test_a_signal_is_a_status_as_in_a_shell() -> None:
    assert LocalShell().run(["sh", "-c", "kill -TERM $$"], check=False).status == 143


def test_environment_and_directory(tmp_path: Path) -> None:
    result = LocalShell().run(["/bin/sh", "-c", 'echo "$A|$HOME|$PWD"'], env={"A": "x y"}, cwd=tmp_path)
    assert result.stdout == f"x y||{tmp_path}\n"
    with pytest.raises(CommandError, match="cannot be started"):
        LocalShell().run(["true"], cwd=tmp_path / "missing")
    with pytest.raises(MissingProgramError):
        LocalShell().run([str(tmp_path / "missing")])


def test_a_time_out_ends_the_program_and_its_children() -> None:
    began = time.monotonic()
    program = f"sleep {100_000 + os.getpid()}"  # another run of these tests has another number
    with pytest.raises(CommandError, match=r"did not answer within 0\.2 s"):
        LocalShell().run(["sh", "-c", f"{program} & {program}"], timeout_s=0.2)
    assert time.monotonic() - began < 10
    found = subprocess.run(["pgrep", "-fx", program], capture_output=True, check=False)
    assert found.stdout == b""


def test_a_program_in_the_background_does_not_hold_us_up() -> None:
    began = time.monotonic()
    result = LocalShell().run(["sh", "-c", "sleep 30 >/dev/stdout & echo $!"])
    assert time.monotonic() - began < 10
    os.kill(int(result.stdout), 9)


def test_no_answer_is_waited_for_on_standard_input() -> None:
    assert LocalShell().run(["cat"]).stdout == ""


def test_short_commands_load_little() -> None:
    """`sh` takes longer to load than sbatch to answer."""
    code = """
import sys
from launcher._util.shell import LocalShell
LocalShell().run(["true"])
print("sh" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_members_of_a_process_group_without_those_that_have_ended() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True) as process:
        deadline = time.monotonic() + seconds(20)
        while len(group_members(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        found = group_members(process.pid)
        assert process.pid in found
        assert len(found) == 2
        os.killpg(process.pid, 9)
        while group_members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert group_members(process.pid) == []  # not reaped yet: a zombie
