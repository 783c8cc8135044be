"""`launcher convert` as its users meet it: the report, statuses, what is left behind, and the same in a job."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.backends.running import LAUNCHER, ROOT, user_of
from tests.support.limits import seconds
from tests.support.slurm.virtual_cluster import VirtualCluster
from tests.support.warm import warm_python

pytestmark = pytest.mark.timeout(300)

MAKE = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from tests.job.convert_process import make

good, odd = map(Path, sys.argv[1:])
make(good, "qwen3")
make(odd, "qwen3")
tensors = load_file(odd / "model.safetensors")
save_file({**tensors, "model.nobody_knows.weight": torch.ones(3)}, odd / "model.safetensors", metadata={"format": "pt"})
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small model, and the same with a tensor that no Qwen3 has."""
    base = tmp_path_factory.mktemp("models")
    good, odd = base / "good", base / "odd"
    command = [warm_python(), "-c", MAKE, str(good), str(odd)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (good / "tokenizer_config.json").write_text('{"from": "the source"}')
    return good, odd


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name not in ("clusters", "small.py"))


@pytest.mark.megatron
def test_a_model_goes_there_here_and_back_in_a_job(
    tmp_path: Path, slurm_cluster: VirtualCluster, models: tuple[Path, Path]
) -> None:
    user = user_of(tmp_path, slurm_cluster)
    done = user.run(
        "convert", "import", str(models[0]), "made/checkpoint", "--json", "--no-logits", "--python", warm_python()
    )
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "made/checkpoint/parity.json").read_text())
    assert report["ok"] and report["bit_exact"] == 25
    assert report["target"] == str(tmp_path / "made/checkpoint")
    words = r"import equal: .*made/checkpoint .*\n  tensors  25, 25 bit-exact\n  logits   not compared"
    assert re.search(words, done.stderr)
    # No bar where standard error is not a terminal.
    assert "\r" not in done.stderr and "of 25 tensors" not in done.stderr
    assert names(tmp_path / "made") == ["checkpoint"]
    config = (tmp_path / "made/checkpoint/iter_0000000/run_config.yaml").read_text()
    assert ".partial" not in config and f"save: {tmp_path}/made/checkpoint" in config

    again = user.run("convert", "import", str(models[0]), "made/checkpoint", status=2)
    assert "exists already and is not empty" in again.stderr

    options = ("--in-job-on", "virtual", "--cpus", "1", "--json")
    done = user.run("convert", "export", "made/checkpoint", "made/model", *options)
    report = json.loads(done.stdout)
    assert re.search(r"job \d+ on virtual", done.stderr) and "writing tensors" in done.stderr
    assert report["ok"] and report["logits"]["ok"]
    assert (tmp_path / "made/model/tokenizer_config.json").read_text() == '{"from": "the source"}'
    assert names(tmp_path / "made") == [".launcher-tasks", "checkpoint", "model"]

    failed = user.run("convert", "export", "made/nowhere", "made/other", *options, status=2)
    assert json.loads(failed.stdout)["error"]["message"] == f"there is no directory {tmp_path}/made/nowhere"


@pytest.mark.megatron
def test_what_is_not_equal_does_not_get_the_name(tmp_path: Path, models: tuple[Path, Path]) -> None:
    user = user_of(tmp_path)
    options = ("--no-logits", "--json", "--python", warm_python())
    done = user.run("convert", "import", str(models[1]), "checkpoint", *options, status=1)
    report = json.loads(done.stdout)
    assert not report["ok"] and report["missing"] == ["model.nobody_knows.weight"]
    assert "import NOT EQUAL" in done.stderr and "lost     1: model.nobody_knows.weight" in done.stderr
    assert names(tmp_path) == ["checkpoint.parity-failed"]


@pytest.mark.megatron
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_conversion_leaves_no_result_and_no_process(
    number: signal.Signals, tmp_path: Path, models: tuple[Path, Path]
) -> None:
    user = user_of(tmp_path)
    command = [str(LAUNCHER), "convert", "import", str(models[0]), "checkpoint"]
    started = subprocess.Popen(command, cwd=tmp_path, env=user.environ, stderr=subprocess.PIPE, text=True)
    assert started.stderr is not None
    with started:
        assert started.stderr.readline().strip() == "loading Megatron"
        started.send_signal(number)
    assert started.returncode == (130 if number == signal.SIGINT else -number)
    end = time.monotonic() + seconds(30)
    while (left := processes(str(tmp_path))) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left
    assert names(tmp_path) == []


def processes(text: str) -> list[str]:
    """Command lines on this machine that hold `text`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("import", "nowhere", "there"), "there is no directory"),
        (("export", "small.py", "there"), "there is no directory"),
        (("import", "nowhere", "there", "--python", "/no/python"), "there is no interpreter '/no/python'"),
        (("import", "nowhere", "clusters"), "exists already and is not empty"),
        (("import", "nowhere", "there", "--tp", "0"), "0 is not a whole number of at least 1"),
        (("import", "nowhere", "there", "--dtype", "float8"), "invalid choice"),
        (("import", "nowhere", "there", "--in-job-on", "local"), "has no Slurm to run a job on"),
    ],
)
def test_wrong_requests_are_refused_at_once(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    user = user_of(tmp_path)
    assert says in user.run("convert", *arguments, status=2).stderr
    assert names(tmp_path) == []


def test_a_name_without_a_run_is_refused(tmp_path: Path) -> None:
    refused = user_of(tmp_path).run("convert", "export", "nobodys", "out", status=2).stderr
    assert f"there is no directory {tmp_path}/nobodys, and no run 'nobodys'" in refused
    assert not (tmp_path / "out").exists()
