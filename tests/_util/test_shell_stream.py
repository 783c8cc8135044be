"""Streaming: output arrives while a program runs, and no program is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher._util.errors import CommandError, MissingProgramError
from launcher._util.shell import LocalShell, Result
from tests.support.limits import seconds
from tests.support.recorder import Recorder


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool], timeout_s: float = 30) -> bool:
    end = time.monotonic() + seconds(timeout_s)
    while not condition():
        if time.monotonic() > end:
            return condition()  # a machine that stood still meanwhile has had no time to come true
        time.sleep(0.02)
    return True


def test_text_comes_while_the_program_runs() -> None:
    seen: list[tuple[str, str, float]] = []
    script = r"printf '10%%\r'; sleep 0.5; printf '20%%\r'; sleep 0.5; echo done; echo words >&2"
    result = LocalShell().stream(["sh", "-c", script], lambda name, text: seen.append((name, text, time.monotonic())))
    assert [text for name, text, _ in seen if name == "out"] == ["10%\r", "20%\r", "done\n"]
    assert [text for name, text, _ in seen if name == "err"] == ["words\n"]
    times = [at for name, _, at in seen if name == "out"]
    assert times[1] - times[0] > 0.3
    assert times[2] - times[1] > 0.3
    assert result == Result(("sh", "-c", script), 0, "10%\r20%\rdone\n", "words\n")


def test_only_the_end_of_the_output_is_kept_but_all_of_it_is_handed_over() -> None:
    count = 0

    def add(name: str, text: str) -> None:
        nonlocal count
        count += len(text)

    result = LocalShell().stream(["head", "-c", "20000000", "/dev/zero"], add)
    assert count == 20_000_000
    assert len(result.stdout) == 64 * 1024


def test_a_character_cut_in_two_pieces_is_put_together() -> None:
    texts: list[str] = []
    script = r"printf '\303'; sleep 0.3; printf '\244 \377'"
    LocalShell().stream(["sh", "-c", script], lambda _, text: texts.append(text))
    assert "".join(texts) == "ä \N{REPLACEMENT CHARACTER}"


def test_a_failure_has_the_programs_own_words() -> None:
    with pytest.raises(CommandError, match=r"ended with status 3: because"):
        LocalShell().stream(["sh", "-c", "echo noise; echo because >&2; exit 3"])
    assert LocalShell().stream(["sh", "-c", "kill -9 $$"], check=False).status == 137
    with pytest.raises(MissingProgramError, match="no-such-program"):
        LocalShell().stream(["no-such-program"])


def test_arguments_environment_and_directory(tmp_path: Path) -> None:
    result = LocalShell().stream(
        ["sh", "-c", 'printf "%s|" "$@" "$A"; pwd', "sh", "a  b", "$(c)", "--d=e"],
        env={"A": "x y", "PATH": os.environ["PATH"]},
        cwd=tmp_path,
    )
    assert result.stdout == f"a  b|$(c)|--d=e|x y|{tmp_path}\n"


def test_one_program_reads_what_another_writes() -> None:
    size = 300_000_000
    result = LocalShell().stream(["wc", "-c"], source=["head", "-c", str(size), "/dev/zero"])
    assert result.stdout.strip() == str(size)


def test_a_program_that_wants_a_terminal_gets_one() -> None:
    script = "test -t 1 && ! test -t 2 && stty size <&1; printf 'end'"
    assert LocalShell().stream(["sh", "-c", script], terminal=True).stdout == "24 80\r\nend"
    assert LocalShell().stream(["sh", "-c", script]).stdout == "end"


def test_the_program_that_failed_is_named_not_the_one_that_noticed() -> None:
    with pytest.raises(CommandError, match="no space for you") as caught:
        LocalShell().stream(["sh", "-c", "echo no space for you >&2; exit 1"], source=["yes"])
    assert caught.value.message.startswith("sh -c")
    with pytest.raises(CommandError, match="broken source"):
        LocalShell().stream(["cat"], source=["sh", "-c", "echo half; echo broken source >&2; exit 4"])


def test_a_program_in_the_background_does_not_hold_us_up() -> None:
    begin = time.monotonic()
    result = LocalShell().stream(["sh", "-c", "sleep 20 & echo $!"])
    assert time.monotonic() - begin < 5
    os.kill(int(result.stdout), signal.SIGKILL)


def test_a_time_out_ends_all_that_was_started() -> None:
    pids: list[int] = []
    with pytest.raises(CommandError, match="did not end within"):
        LocalShell().stream(
            ["sh", "-c", "sleep 60 & echo $! $$; wait"],
            lambda _, text: pids.extend(map(int, text.split())),
            timeout_s=0.5,
        )
    assert len(pids) == 2
    assert until(lambda: not any(map(alive, pids)), 2)


def test_an_exception_of_the_caller_ends_the_programs() -> None:
    pids: list[int] = []

    def broken(name: str, text: str) -> None:
        pids.append(int(text))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        LocalShell().stream(["cat"], broken, source=["sh", "-c", "echo $$; sleep 60"])
    assert until(lambda: not any(map(alive, pids)), 2)


CALLER = textwrap.dedent(
    """
    import signal
    import sys
    from launcher._util.shell import LocalShell

    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup have it ignored

    def show(name, text):
        print(text, end="", flush=True)

    try:
        LocalShell().stream(["sh", "-c", sys.argv[1]], show)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    """
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_nothing_is_left_when_the_launcher_is_ended(number: signal.Signals, tmp_path: Path) -> None:
    script = f'trap "echo cleaned > {tmp_path}/cleaned; exit 1" TERM; sleep 60 & echo $$ $!; wait'
    argv = [sys.executable, "-c", CALLER, script]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = list(map(int, process.stdout.readline().split()))
        time.sleep(0.3)
        process.send_signal(number)
        assert until(lambda: not any(map(alive, pids))), "what the program started is ended, too"
        assert until((tmp_path / "cleaned").exists, 2), "it could clean up"
        rest = process.stdout.read()
    assert ("interrupted" in rest) == (number == signal.SIGINT)


def test_a_program_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher._util.streaming.GRACE_S", 0.3)
    pids: list[int] = []
    with pytest.raises(CommandError):
        LocalShell().stream(
            ["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.1; done"],
            lambda _, text: pids.append(int(text)),
            timeout_s=0.3,
        )
    assert not alive(pids[0])


def test_a_recorder_answers_a_stream_like_a_run() -> None:
    shell = Recorder({"a": Result(("a",), 0, "out", "err"), "b": Result(("b",), 0, "", "")})
    seen: list[tuple[str, str]] = []
    shell.stream(["a", "1"], lambda name, text: seen.append((name, text)), source=["b"], env={"X": "1"})
    assert seen == [("out", "out"), ("err", "err")]
    assert shell.asked == [("b",), ("a", "1")]
    assert shell.environments == [{"X": "1"}, {"X": "1"}]
