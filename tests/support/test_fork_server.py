"""What the fork server runs behaves as a fresh interpreter does; one training shows it whole."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.job import old_bridge
from tests.job.bridge_process import ROOT
from tests.job.override_records import override_records
from tests.job.ranks import Run, make_run, train
from tests.support import warm
from tests.support.limits import seconds
from tests.support.warm import warm_python

pytestmark = [pytest.mark.megatron, pytest.mark.timeout(seconds(300))]

SHOWN = """
import os, signal, sys
print(__name__, sys.argv, sys.orig_argv[1:], sys.path, sys.flags.dont_write_bytecode, __spec__ is None)
imports_set = ("TORCHINDUCTOR_", "KMP_")  # what importing torch and scikit-learn leaves behind
environment = {name: value for name, value in os.environ.items() if not name.startswith(imports_set)}
print(sorted(environment.items()), os.getcwd(), os.umask(0), sorted(os.sched_getaffinity(0)))
print([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE)])
print([name for name in sys.modules if name.startswith(("launcher", "tests"))], globals().get("__file__"))
print(sys.stdin.read(), sys.stdout.encoding, sys.stderr.errors, sys.stdout.line_buffering)
print("to stderr", file=sys.stderr)
"""


def both(python: str, *arguments: str, **options: Any) -> list["subprocess.CompletedProcess[str]"]:
    """The command as the real interpreter ends it, and as the server does."""
    return [
        subprocess.run(
            [one, *arguments],
            capture_output=True,
            text=True,
            timeout=seconds(120),
            check=False,
            **{"input": "", **options},
        )
        for one in (python, warm_python(python))
    ]


@pytest.fixture(params=[pytest.param("0.6.2"), pytest.param("0.3.1", marks=old_bridge.needed)], scope="module")
def python(request: pytest.FixtureRequest) -> str:
    """The interpreter of each release of Megatron Bridge."""
    return sys.executable if request.param == "0.6.2" else old_bridge.PYTHON


@pytest.mark.parametrize("form", ["script", "relative", "module", "command"])
def test_a_program_sees_what_a_fresh_interpreter_shows_it(python: str, form: str, tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text(SHOWN)
    program = {
        "script": (str(tmp_path / "shown.py"),),
        "relative": ("shown.py",),
        "module": ("-m", "shown"),
        "command": ("-c", SHOWN),
    }[form]
    environment = {"HOME": os.environ["HOME"], "PATH": "/bin", "PYTHONPATH": "/no/where:/else", "LANG": "C.UTF-8"}
    cold, forked = both(python, *program, "-x", "a b", cwd=tmp_path, env=environment, input="from stdin", umask=0o27)
    assert cold.returncode == 0, cold.stderr
    assert (forked.returncode, forked.stdout, forked.stderr) == (0, cold.stdout, "to stderr\n")


ENDS = {
    "status": "import sys; sys.exit(7)",
    "text": "import sys; sys.exit('no')",
    "raises": "def f():\n    raise ValueError('x')\nf()",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "terminated": "import os, signal; signal.raise_signal(signal.SIGTERM)",
    "interrupted": "import os, signal; signal.raise_signal(signal.SIGINT)",
    "at once": "import os; print('never flushed', end=''); os._exit(5)",
    "at exit": "import atexit; atexit.register(print, 'bye'); print('hello')",
    "a thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('last'))).start()",
    "anew": "import os, sys; os.execve(sys.executable, [sys.executable, '-c', 'print(8)'], {})",
    "cannot": "import nowhere_at_all",
    "syntax": "1 +",
}


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_as_there(end: str, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(ENDS[end])
    cold, forked = both(sys.executable, str(tmp_path / "ends.py"))
    assert (forked.returncode, forked.stdout, forked.stderr) == (cold.returncode, cold.stdout, cold.stderr)


def test_files_that_were_handed_on_are_open_there(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    command = [warm_python(), "-c", f"import os; os.write({writing}, b'here')"]
    with os.fdopen(reading) as pipe:
        with subprocess.Popen(command, pass_fds=[writing]) as process:
            os.close(writing)
            assert pipe.read() == "here"
        assert process.returncode == 0


WAITS = """
import os, signal, sys, time
def show(number, _frame):
    print("got", signal.Signals(number).name, flush=True)
signal.signal(signal.SIGUSR1, show)
print(os.getpid(), os.getsid(0), flush=True)
while True:
    time.sleep(0.05)
"""


def waiting(python: str) -> tuple["subprocess.Popen[str]", int]:
    """A program that waits for signals, and the process that runs it."""
    process = subprocess.Popen([python, "-c", WAITS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid, session = map(int, process.stdout.readline().split())
    assert pid == session != process.pid
    return process, pid


def gone(pid: int) -> bool:
    end = time.monotonic() + seconds(10)
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.02)
    return not Path(f"/proc/{pid}").exists()


def test_signals_are_passed_on_and_a_killed_stand_in_takes_its_child_along() -> None:
    process, pid = waiting(warm_python())
    assert process.stdout is not None
    with process:
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "got SIGUSR1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(seconds(10)) == -signal.SIGTERM
    assert gone(pid)
    process, pid = waiting(warm_python())
    with process:
        process.kill()
        assert gone(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, None])
def test_nothing_outlives_the_server(number: signal.Signals | None) -> None:
    server = warm.start()
    process, pid = waiting(server.python)
    if number is None:
        server.stop()
    else:
        server.process.send_signal(number)
    with process:
        assert gone(pid)
        assert process.wait(seconds(10)) in (1, -signal.SIGKILL)
    server.stop()


@pytest.mark.parametrize("variables", [{"HF_HOME": "/else"}, {"PYTHONWARNINGS": "error"}, {}], ids=str)
def test_what_is_read_at_import_needs_a_fresh_interpreter(variables: dict[str, str]) -> None:
    code = "import sys; print('torch' in sys.modules)"
    options = () if variables else ("-X", "utf8=1")
    command = [warm_python(), *options, "-c", code]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


TIMES = re.compile(r"time|seconds|tflops|_per_|^pid$")


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records without times."""
    return [{name: value for name, value in line.items() if not TIMES.search(name)} for line in lines]


def placeless(lines: list[dict[str, Any]], run: Path) -> list[dict[str, Any]]:
    """Return records in which the path of the run is replaced."""
    return [
        {name: value.replace(str(run), "RUN") if isinstance(value, str) else value for name, value in line.items()}
        for line in lines
    ]


def left_behind(run: Run) -> dict[str, Any]:
    """What a run has left, but for times and places."""
    files = {str(path.relative_to(run.path)): path for path in run.path.rglob("*") if path.is_file()}
    stable = {re.sub(r"events\.out\.tfevents.*", "tensorboard", name): path for name, path in files.items()}
    configuration = (run.attempt() / "config.yaml").read_text().replace(str(run.path), "RUN")
    environment = json.loads((run.attempt() / "environment.json").read_text())["environment"]
    kept = {name: value for name, value in environment.items() if name not in ("MASTER_PORT", "LAUNCHER_RUN_DIR")}
    return {
        "files": sorted(name for name in stable if "__pycache__" not in name),
        "weights": {name: path.read_bytes() for name, path in stable.items() if name.endswith(".distcp")},
        "metrics": timeless(run.lines("metrics.jsonl")),
        "timeline": placeless(timeless(run.lines("timeline.jsonl")), run.path),
        "ends": timeless([run.end(rank) for rank in range(2)]),
        "configuration": configuration,
        "environment": kept,
    }


def test_a_training_is_the_same_cold_and_forked(tmp_path: Path) -> None:
    overrides = ("train.train_iters=6", "checkpoint.save_interval=3", "model.tensor_model_parallel_size=2")
    cold, forked = (make_run(tmp_path / name, overrides=overrides) for name in ("cold", "fork"))
    train(cold, cold=True)
    train(forked)
    found, expected = left_behind(forked), left_behind(cold)
    assert len(expected["metrics"]) == 6 and len(expected["weights"]) == 4
    for name, value in expected.items():
        assert found[name] == value, name


def test_a_check_is_answered_alike_cold_and_forked() -> None:
    request: dict[str, Any] = {
        "recipe": {"path": str(ROOT / "recipes/qwen3_moe_pretrain.py"), "function": "configure"},
        "arguments": {},
        "overrides": override_records(("env_vars.MINE=1", "train.global_batch_size=16")),
        "options": {"device": "auto"},
        "world_size": 8,
        "ranks_per_node": 8,
    }
    cold, forked = both(sys.executable, str(ROOT / "entrypoint.py"), "--check-config", input=json.dumps(request))
    assert cold.returncode == 0, cold.stdout
    assert json.loads(forked.stdout) == json.loads(cold.stdout)


def test_a_process_that_multiprocessing_spawns_is_a_child_of_the_server_too(tmp_path: Path) -> None:
    (tmp_path / "spawns.py").write_text(
        "import multiprocessing, sys\n"
        "def answer(queue):\n"
        "    queue.put(('torch' in sys.modules, __name__))\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    process = context.Process(target=answer, args=(queue,))\n"
        "    process.start()\n"
        "    print(queue.get())\n"
        "    process.join()\n"
        "    print(process.exitcode)\n"
    )
    done = subprocess.run(
        [warm_python(), str(tmp_path / "spawns.py")], capture_output=True, text=True, timeout=seconds(60), check=False
    )
    assert (done.stdout, done.stderr) == ("(True, '__mp_main__')\n0\n", "")
