"""`launcher cloudai`: its actions by the command line, without Slurm."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from launcher._util import toml
from launcher.cli.main import main
from launcher.cloudai.profile import toml_text
from launcher.config.request import Request
from tests.cloudai.files import ARGS, DATA, TEST, workspace, write

FILES = ("--system-config", "system.toml", "--tests-dir", "tests", "--test-scenario", "scenario.toml")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("HF_TOKEN", "CLOUDAI_SYSTEM_CONFIG", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def call(*words: str) -> int:
    return main(["cloudai", *words])


def test_a_dry_run_writes_what_would_be_executed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace(here, {"id": "a"}, {"id": "b", "cmd_args": {"tp": [1, 3]}})
    assert call("dry-run", *FILES, "--mode=native", "--json", "--output-dir=out") == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    root = Path(answer["result_dir"])
    assert root.parent == here / "out"
    assert [one["name"] for one in answer["cases"]] == ["a/0", "b/0/1", "b/0/2"]
    assert "check 1" in answer["cases"][2]["refused"]
    assert "b/0/2: refused: check 1" in err
    assert (root / "a/0/sbatch.sh").read_text().startswith("#!/bin/bash")
    assert toml.loads((root / "b/0/1/test-run.toml").read_text())["step"] == 1
    # Nothing was cloned.
    assert not (here / "install").exists()


def test_the_system_may_come_from_the_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace(here)
    assert call("dry-run", *FILES[2:]) == 2
    monkeypatch.setenv("CLOUDAI_SYSTEM_CONFIG", "system.toml")
    assert call("dry-run", *FILES[2:]) == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("dry-run", *FILES, "--single-sbatch", "--mode=exec"), "T1: its setup_experiment.py submits a job of its own"),
        (("run", *FILES, "--result-dir=x"), "unknown option --result-dir"),
        (("verify-configs", ".", "--system-config=x"), "unknown option --system-config"),
        (("list", "systems"), "invalid choice"),
        (("dry-run", *FILES[:4], "--test-scenario=no.toml"), "--test-scenario: there is no file no.toml"),
        (("dry-run", *FILES, "--hook-dir=none"), "--hook-dir: there is no directory none"),
        (("generate-report", *FILES, "--result-dir=tests"), "holds no results"),
    ],
)
def test_wrong_words(words: tuple[str, ...], sentence: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace(here)
    assert call(*words) == 2
    assert sentence in capsys.readouterr().err


def test_a_release_before_0_6_is_run_by_its_own_script(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace(here, test={"git_repos": [{**TEST["git_repos"][0], "commit": "v0.3.0"}]})
    (here / "install/Megatron-Bridge__v0.3.0").mkdir(parents=True)
    assert call("dry-run", *FILES, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    command = (Path(answer["cases"][0]["directory"]) / "cloudai_generated_command.sh").read_text()
    assert "scripts/performance/setup_experiment.py -p main -g h100 -c fp8_cs" in command
    assert "-hf env:HF_TOKEN" in command
    assert call("run", *FILES, "--enable-cache-without-check") == 2
    assert "there is no Python environment with NeMo-Run" in capsys.readouterr().err


def test_variants_are_printed_and_nothing_is_asked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace(here, {"cmd_args": {"list_config_variants": True}})
    assert call("run", *FILES) == 0
    assert capsys.readouterr().out == "T1: v1\n"
    assert not (here / "results").exists()


def test_hooks_are_not_left_out_in_silence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace(here)
    values = {"name": "s", "pre_test": "nccl_test", "Tests": [{"id": "a", "test_name": "t"}]}
    write(here / "scenario.toml", values)
    hooks = f"--hook-dir={DATA / 'hook'}"
    assert call("dry-run", *FILES, hooks, "--mode=native", "--output-dir=out") == 0
    (script,) = here.glob("out/*/a/0/sbatch.sh")
    assert "all_gather_perf_mpi --nthreads 1 --ngpus 1 --minbytes 128 --maxbytes 4G" in script.read_text()
    assert "gate before nccl_test_all_gather 1200 8 -" in script.read_text()
    assert call("dry-run", *FILES, hooks, "--mode=native", "--output-dir=none", "--without-hooks") == 0
    (script,) = here.glob("none/*/a/0/sbatch.sh")
    assert "gate" not in script.read_text()
    write(here / "scenario.toml", {**values, "post_test": "nccl_test"})
    assert call("dry-run", *FILES, hooks, "--mode=native", "--output-dir=both") == 0
    (script,) = here.glob("both/*/a/0/sbatch.sh")
    assert "gate after post-nccl_test_all_gather 1200 8 -" in script.read_text()
    # Hooks of other workloads are refused before anything is submitted.
    other = {"name": "n", "description": "d", "test_template_name": "UCCTest", "cmd_args": {"docker_image_url": "i"}}
    write(here / "hooks/test/n.toml", other)
    write(here / "hooks/nccl.toml", {"name": "nccl_test", "Tests": [{"id": "h", "test_name": "n"}]})
    capsys.readouterr()
    for mode in ("native", "exec"):
        assert call("dry-run", *FILES, "--hook-dir=hooks", f"--mode={mode}") == 2
        assert "a hook's test has the template 'UCCTest'" in capsys.readouterr().err


def test_one_job_for_all_tests_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its options are those of the largest test, its limit the sum; tests are run in their order, points as well."""
    after = [{"type": "start_post_comp", "id": "b"}]
    tests: list[dict[str, Any]] = [
        {"id": "a", "dependencies": after, "time_limit": "30"},
        {"id": "b", "cmd_args": {"num_gpus": 32, "tp": [1, 3]}, "time_limit": "1:00:00", "exclude_nodes": ["n1"]},
    ]
    workspace(here, *tests)
    assert call("dry-run", *FILES, "--mode=native", "--json", "--single-sbatch") == 0
    script = Path(json.loads(capsys.readouterr().out)["script"])
    text = script.read_text()
    stated = dict(re.findall("^#SBATCH --(nodes|time|job-name|exclude|partition)=(.*)$", text, re.MULTILINE))
    assert stated == {"job-name": "cloudai-s", "nodes": "4", "exclude": "n1", "partition": "main", "time": "90"}
    assert "--signal" not in text, "each run watches its own end"
    runs = json.loads((script.parent / "runs.json").read_text())["runs"]
    root = script.parent.parent
    assert [str(Path(one["case"]).relative_to(root)) for one in runs] == ["b/0/1", "a/0"], "b/0/2 cannot run"
    assert [one["request"]["nodes"] for one in runs] == [4, 2]
    assert not {"time", "partition", "sbatch", "exclude"} & {key for one in runs for key in one["request"]}
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize(
    ("tests", "sentence"),
    [
        ([{"id": "a", "time_limit": "5"}, {"id": "b"}], "some tests state a time_limit and others none"),
        ([{"id": "a", "dependencies": [{"type": "end_post_comp", "id": "b"}]}, {"id": "b"}], "a: end_post_comp ends"),
        ([{"id": "a", "agent": "bayesian_optimization", "cmd_args": {"tp": [1, 2]}}], "a: bayesian_optimization"),
        ([{"id": "a", "cmd_args": {"dryrun": True}}], "no test of the scenario can be run"),
    ],
)
def test_what_cannot_run_in_one_job(
    tests: list[dict[str, Any]], sentence: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace(here, *tests)
    assert call("dry-run", *FILES, "--mode=native", "--single-sbatch") == 2
    assert f"--single-sbatch: {sentence}" in capsys.readouterr().err


def test_files_are_verified(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace(here)
    assert call("verify-configs", ".") == 0
    write(here / "tests/wrong.toml", {**TEST, "name": "w", "cmd_args": {**ARGS, "tp": "x"}})
    assert call("verify-configs", ".", "--json") == 1
    out, err = capsys.readouterr()
    assert "tests/wrong.toml:" in err
    assert "4 files, 1 with mistakes" in err
    wrong = [one for one in json.loads(out)["files"] if one["error"]]
    assert [Path(one["path"]).name for one in wrong] == ["wrong.toml"]


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", "agents", "-v") == 0
    assert "grid_search: refuses env_params\n" in capsys.readouterr().out
    assert call("list", "reports") == 0
    assert "per_test\n" in capsys.readouterr().out


def test_a_scenario_becomes_job_files(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job file is valid, and plans the same run; a token is not in it."""
    secret = {"cmd_args": {**ARGS, "hf_token": "hf_canary0123456789abcdefghijklmnop"}}
    workspace(here, {"time_limit": "30m", "extra_env_vars": {"A": "/a:$PATH"}}, test=secret)
    assert call("convert", *FILES, "--cluster=slurm", "jobs") == 0
    job = here / "jobs/T1-0.toml"
    text = job.read_text()
    assert "canary" not in text
    values = toml.loads(text)
    request = Request.model_validate(values)
    assert (request.time, request.expand_env, request.nodes) == ("00:30:00", ("A",), 2)
    assert request.env == ("A=/a:$PATH", "HF_TOKEN")
    capsys.readouterr()
    monkeypatch.setenv("HF_TOKEN", "of-the-shell")
    assert main(["plan", str(job), "--for", "submit", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["plan"]["recipe"], plan["plan"]["layout"]["world_size"]) == (
        "bridge:qwen3_30b_a3b_pretrain_16gpu_h100_fp8cs_config",
        16,
    )
    assert call("convert", *FILES, "jobs") == 2
    assert "is not empty" in capsys.readouterr().err


def test_what_is_printed_is_logged_by_level(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace(here, scenario={"job_status_check": False})
    assert call("--log-file=all.log", "--log-level=WARNING", "dry-run", *FILES, "--mode=exec") == 0
    err = capsys.readouterr().err
    assert "warning:   git_repos: git_repos pins v0.6.0" in err
    assert "T1/0: exec" not in err
    log = (here / "all.log").read_text()
    assert "T1/0: exec" in log
    assert "job_status_check: has no effect" in log
    assert all(line[:2] == "20" for line in log.splitlines())
    assert call("dry-run", *FILES) == 0
    assert "T1/0: native" in capsys.readouterr().err


def test_what_cloudai_has_cached_is_not_imported_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace(here, test={"cmd_args": {**ARGS, "container_image": "nvcr.io#nvidia/nemo:26.02.00"}})
    (here / "install/Megatron-Bridge__v0.6.0").mkdir(parents=True)
    cached = here / "install/nvcr.io_nvidia__nemo__26.02.00.sqsh"
    cached.write_bytes(b"hsqs")
    assert call("install", *FILES) == 0
    assert f"nvcr.io#nvidia/nemo:26.02.00: {cached}" in capsys.readouterr().err


def test_an_error_that_ends_a_run_is_recorded(here: Path) -> None:
    from launcher._util.errors import SlurmError
    from launcher.cloudai.run import failure_recorded

    for error, text in (
        (SlurmError("Slurm is away"), "SlurmError: Slurm is away\n"),
        (ValueError("x"), "ValueError: x"),
    ):
        with pytest.raises(type(error)), failure_recorded(here):
            raise error
        assert text in (here / "dse_failure.txt").read_text()


def test_toml_text_can_be_read_again() -> None:
    values: dict[str, Any] = {"a": 1, "b": {"c": ["x", 'y"z']}, "t": [{"n": 1}, {"n": 2}]}
    assert toml.loads(toml_text(values)) == values
