"""Scenarios on a real Slurm, by the command. Cost: about 30 s with the toy; one scenario trains real Megatron.

The toy takes seconds: what is shown is the order, the records and the reports.
"""

import csv
import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from launcher._util import toml
from tests.backends.running import TOY, User, user_of
from tests.cloudai.files import BRIDGE, write
from tests.support.slurm.virtual_cluster import VirtualCluster
from tests.support.warm import warm_python

CANARY = "hf_canary0123456789abcdefghijklmnop"
KEY = "canary-of-wandb-0123456789"
PASSWORD = "canary-of-a-variable-0123456789"

ARGS = {
    "model_family_name": "qwen",
    "model_recipe_name": "qwen3_30b_a3b",
    "gpu_type": "h100",
    "num_gpus": 2,
    "compute_dtype": "fp8_cs",
}
TEST: dict[str, Any] = {
    "name": "small",
    "description": "a test of seconds",
    "test_template_name": "MegatronBridge",
    "git_repos": [BRIDGE],
    "extra_cmd_args": {"toy.iters": "12", "toy.seconds": "0.01"},
    "cmd_args": ARGS,
}


@pytest.fixture
def user(slurm_cluster: VirtualCluster, tmp_path: Path) -> User:
    user = user_of(tmp_path, slurm_cluster)
    partition = slurm_cluster.run("sinfo", "-h", "-o", "%R").stdout.split()[0]
    write(
        tmp_path / "system.toml",
        {
            "name": "virtual nodes",
            "scheduler": "slurm",
            "install_path": str(tmp_path / "install"),
            "output_path": str(tmp_path / "results"),
            "default_partition": partition,
            "gpus_per_node": 2,
            "partitions": [{"name": partition}],
        },
    )
    # Where there is no network, what lies there is used.
    (tmp_path / "install/Megatron-Bridge__v0.6.0").mkdir(parents=True)
    return user


def files(user: User, tests: list[dict[str, Any]], *definitions: dict[str, Any]) -> tuple[str, ...]:
    """Write the files of a scenario and return the options that name them."""
    for number, definition in enumerate(definitions or (TEST,)):
        write(user.directory / f"tests/{number}.toml", definition)
    write(user.directory / "scenario.toml", {"name": "three", "Tests": tests})
    return ("--system-config=system.toml", "--tests-dir=tests", "--test-scenario=scenario.toml", "--cluster=virtual")


def events(run: Path) -> tuple[float, float]:
    """When the run's program began, and when it ended, by its own account."""
    lines = [json.loads(line) for line in (run / "attempts/000/timeline.jsonl").read_text().splitlines()]
    return min(line["time"] for line in lines), max(line["time"] for line in lines)


def test_a_scenario_of_three_tests_runs_to_its_end(user: User, slurm_cluster: VirtualCluster) -> None:
    """A dependency, two iterations, one swept field; no job waits for this launcher."""
    after = [{"type": "start_post_comp", "id": "twice"}]
    options = files(
        user,
        [
            {"id": "twice", "test_name": "small", "iterations": 2, "weight": 3},
            {"id": "behind", "test_name": "small", "dependencies": after, "time_limit": "5"},
            {"id": "swept", "test_name": "small", "cmd_args": {"mb": [1, 2, 4], "gb": 4}},
        ],
    )
    done = user.run("cloudai", "run", *options, f"--entrypoint={TOY}", "--json", timeout_s=200, status=None)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    root = Path(answer["result_dir"])
    assert re.fullmatch(r"three_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", root.name)
    cases = {one["name"]: one for one in answer["cases"]}
    assert list(cases) == ["twice/0", "twice/1", "behind/0", "swept/0/1", "swept/0/2", "swept/0/3"]
    assert {name: one["phase"] for name, one in cases.items()} == {
        **dict.fromkeys(("twice/0", "twice/1", "behind/0", "swept/0/1", "swept/0/2"), "finished"),
        "swept/0/3": "refused",
    }
    assert "check 4: gb=4 cannot be divided" in cases["swept/0/3"]["detail"]
    # Each iteration begins behind the one before, and the dependent test behind both.
    runs = {name: Path(one["run_dir"]) for name, one in cases.items() if one["run_dir"]}
    assert events(runs["twice/0"])[1] < events(runs["twice/1"])[0]
    assert events(runs["twice/1"])[1] < events(runs["behind/0"])[0]
    seen = json.loads((runs["swept/0/2"] / "attempts/000/ranks/0000.seen.json").read_text())
    told = {one["key"]: one.get("value") for one in json.loads(seen["argv_json"])["overrides"]}
    assert (told["train.micro_batch_size"], told["train.global_batch_size"]) == (2, 4)
    # The files that CloudAI writes, where it writes them.
    case = root / "twice/1"
    test_run = toml.loads((case / "test-run.toml").read_text())
    assert (test_run["iterations"], test_run["current_iteration"], test_run["nnodes"]) == (2, 1, 1)
    assert test_run["test_definition"]["cmd_args"]["model_recipe_name"] == "qwen3_30b_a3b"
    job = toml.loads((case / "slurm-job.toml").read_text())
    assert (str(job["job_id"]), job["state"]) == (cases["twice/1"]["job"], "COMPLETED")
    lines = (case / "report.txt").read_text().splitlines()
    assert lines[0] == f"Source log: {case}/cloudai_megatron_bridge_launcher.log"
    average = float(next(line for line in lines if "avg" in line).split()[1])
    assert average == pytest.approx(cases["twice/1"]["step_time_s"])
    log = (case / "cloudai_megatron_bridge_launcher.log").read_text()
    steps = re.findall(r"Step Time : ([\d.]+)s GPU utilization: ([\d.]+)MODEL_TFLOP/s/GPU", log)
    assert len(steps) == 12
    report = json.loads((case / "training_report.json").read_text())
    assert len(report["steps"]) == 12
    assert report["aggregation"]["step_time_sec"].keys() == {"mean", "min", "max", "std", "t95", "t99"}
    assert (case / "run").resolve() == runs["twice/1"]
    page = (root / "three.html").read_text()
    assert page.count("PASSED") == 5
    rows = list(csv.DictReader((root / "swept/0/trajectory.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert rows[1]["action"] == "{'mb': 2}"
    step_time = cases["swept/0/2"]["step_time_s"]
    assert float(rows[1]["reward"]) == pytest.approx(1 / step_time)
    assert json.loads(rows[1]["observation"]) == [pytest.approx(step_time)]
    best = toml.loads((root / "swept/0/swept.toml").read_text())
    assert best["cmd_args"]["mb"] in (1, 2)
    assert "2 of 3 points were run" in (root / "three-dse-report.html").read_text()


def test_a_run_that_dies_at_step_3_has_failed(user: User) -> None:
    """With status 0 of all programs around it, too; the next test and the reports go on."""
    dies = {**TEST, "name": "dies", "extra_cmd_args": {"toy.fail_rank": "0", "toy.fail_step": "3"}}
    after = [{"type": "start_post_comp", "id": "bad"}]
    tests: list[dict[str, Any]] = [
        {"id": "bad", "test_name": "dies"},
        {"id": "next", "test_name": "small", "dependencies": after},
    ]
    options = files(user, tests, TEST, dies)
    done = user.run("cloudai", "run", *options, f"--entrypoint={TOY}", "--json", timeout_s=120, status=1)
    answer = json.loads(done.stdout)
    assert {one["name"]: one["phase"] for one in answer["cases"]} == {"bad/0": "failed", "next/0": "finished"}
    root = Path(answer["result_dir"])
    assert "No step times: the run is failed" in (root / "bad/0/report.txt").read_text()
    assert root.with_name(f"{root.name}.tgz").is_file()
    # The reports are written again from what is on disk.
    again = user.run("cloudai", "generate-report", *options[:3], f"--result-dir={root}", "--json", status=1)
    assert json.loads(again.stdout)["cases"] == answer["cases"]


def test_secrets_are_in_no_file_and_on_no_command_line(user: User, slurm_cluster: VirtualCluster) -> None:
    """A token, a key and a variable, in the test and in the scenario: the ranks have them, nothing else does."""
    test = {
        **TEST,
        "cmd_args": {**ARGS, "wandb_key": KEY, "wandb_project_name": "p", "wandb_experiment_name": "e"},
        "extra_env_vars": {"MY_PASSWORD": PASSWORD, "WHERE": "/a:${HOME}/b", "TEXT": "it's $(hostname)"},
    }
    options = files(user, [{"id": "one", "test_name": "small", "cmd_args": {"hf_token": CANARY}}], test)
    done = user.run("cloudai", "run", *options, f"--entrypoint={TOY}", "--json", timeout_s=120)
    answer = json.loads(done.stdout)
    run = Path(answer["cases"][0]["run_dir"])
    note = run / "attempts/000/ranks/0000.seen.json"
    seen = json.loads(note.read_text())
    environment = seen["environment"]
    assert (environment["HF_TOKEN"], environment["WANDB_API_KEY"], environment["MY_PASSWORD"]) == (
        CANARY,
        KEY,
        PASSWORD,
    )
    assert CANARY not in " ".join(seen["argv"])
    assert environment["WHERE"] == f"/a:{environment['HOME']}/b"
    assert environment["TEXT"] == "it's $(hostname)"
    assert "is a secret in a file that others may read" in done.stderr
    canaries = [text.encode() for text in (CANARY, KEY, PASSWORD)]
    written = [path for path in user.directory.rglob("*") if path.is_file() and not path.name.endswith(".seen.json")]
    holders = [path for path in written if any(canary in path.read_bytes() for canary in canaries)]
    assert {path.name for path in holders} == {"0.toml", "scenario.toml"}, holders
    assert not any(canary.decode() in done.stdout + done.stderr for canary in canaries)
    shown = slurm_cluster.run("scontrol", "show", "job", answer["cases"][0]["job"]).stdout
    assert not any(canary.decode() in shown for canary in canaries)


def test_an_interrupted_run_goes_on(user: User, slurm_cluster: VirtualCluster) -> None:
    """`--continue` submits what is missing, and nothing twice."""
    options = files(user, [{"id": "one", "test_name": "small"}, {"id": "two", "test_name": "small"}])
    first = json.loads(user.run("cloudai", "run", *options, f"--entrypoint={TOY}", "--no-wait", "--json").stdout)
    root = first["result_dir"]
    more = ("cloudai", "run", *options, f"--entrypoint={TOY}", f"--continue={root}", "--json")
    answer = json.loads(user.run(*more, timeout_s=120).stdout)
    jobs = {one["name"].partition("/")[0]: [one["job"]] for one in answer["cases"]}
    assert jobs == first["jobs"]
    assert len(list(Path(root).glob("runs/*/[!.]*/plan.json"))) == 2


def test_a_test_ends_with_another_one(user: User, slurm_cluster: VirtualCluster) -> None:
    """end_post_comp: a small job cancels the run once the other test is over."""
    long = {**TEST, "name": "long", "extra_cmd_args": {"toy.iters": "100000", "toy.seconds": "0.05"}}
    tests = [
        {"id": "beside", "test_name": "long", "dependencies": [{"type": "end_post_comp", "id": "main"}]},
        {"id": "main", "test_name": "small", "dependencies": [{"type": "start_post_init", "id": "beside"}]},
    ]
    options = files(user, tests, TEST, long)
    done = user.run("cloudai", "run", *options, f"--entrypoint={TOY}", "--json", timeout_s=120, status=1)
    phases = {one["name"]: one["phase"] for one in json.loads(done.stdout)["cases"]}
    assert phases == {"beside/0": "cancelled", "main/0": "finished"}


def test_one_job_runs_all_tests_one_after_the_other(user: User, slurm_cluster: VirtualCluster) -> None:
    """--single-sbatch: an order, a sweep, a larger test, one that dies; the job is submitted once."""
    dies = {**TEST, "name": "dies", "extra_cmd_args": {"toy.fail_rank": "0", "toy.fail_step": "3"}}
    tests: list[dict[str, Any]] = [
        {"id": "behind", "test_name": "small", "dependencies": [{"type": "start_post_comp", "id": "wide"}]},
        {"id": "wide", "test_name": "small", "cmd_args": {"num_gpus": 4}},
        {"id": "bad", "test_name": "dies"},
        {"id": "swept", "test_name": "small", "cmd_args": {"mb": [1, 2, 4], "gb": 4, "hf_token": CANARY}},
    ]
    options = (*files(user, tests, TEST, dies), f"--entrypoint={TOY}", "--single-sbatch")
    first = json.loads(user.run("cloudai", "run", *options, "--no-wait", "--json").stdout)
    more = ("cloudai", "run", *options, f"--continue={first['result_dir']}", "--json")
    done = user.run(*more, timeout_s=200, status=1)
    answer = json.loads(done.stdout)
    cases = {one["name"]: one for one in answer["cases"]}
    assert {name: one["phase"] for name, one in cases.items()} == {
        **dict.fromkeys(("behind/0", "wide/0", "swept/0/1", "swept/0/2"), "finished"),
        "bad/0": "failed",
        "swept/0/3": "refused",
    }, done.stderr
    (job,) = {job for jobs in first["jobs"].values() for job in jobs}
    root = Path(answer["result_dir"])
    lines = slurm_cluster.run("squeue", "-h", "--states=all", "-o", "%i|%o").stdout.splitlines()
    assert [line.partition("|")[0] for line in lines if f"|{user.directory}/" in line] == [job]
    assert {one["job"] for one in cases.values() if one["phase"] != "refused"} == {job}
    times = {name: events(Path(one["run_dir"])) for name, one in cases.items() if one["run_dir"]}
    order = sorted(times, key=lambda name: times[name][0])
    assert order == ["wide/0", "bad/0", "swept/0/1", "swept/0/2", "behind/0"]
    assert all(times[one][1] < times[next_][0] for one, next_ in itertools.pairwise(order))
    assert len(list(Path(cases["wide/0"]["run_dir"]).glob("attempts/000/ranks/*.seen.json"))) == 4
    assert (root / "swept/0/trajectory.csv").read_text().count("\n") == 3
    assert toml.loads((root / "wide/0/slurm-job.toml").read_text())["is_single_sbatch"]
    written = [path for path in user.directory.rglob("*") if path.is_file() and not path.name.endswith(".seen.json")]
    assert {path.name for path in written if CANARY.encode() in path.read_bytes()} == {"scenario.toml"}
    # What was begun in one job is not submitted test by test.
    refused = user.run(*(word for word in more if word != "--single-sbatch"), status=2)
    assert "was begun with --single-sbatch" in refused.stderr


@pytest.mark.megatron
@pytest.mark.timeout(1500)
def test_real_megatron_trains_a_scenario(user: User, slurm_cluster: VirtualCluster) -> None:
    """The same form of scenario with one of Bridge's own recipes on the CPU back end. Cost: about 60 s."""
    profile = user.directory / "clusters/virtual.toml"
    profile.write_text(f'{profile.read_text()}python = "{warm_python()}"\n')
    small = {
        **TEST,
        "extra_cmd_args": {
            "model.num_layers": "2",
            "model.hidden_size": "32",
            "model.num_attention_heads": "2",
            "model.ffn_hidden_size": "64",
            "checkpoint.save": "null",
        },
        "cmd_args": {
            **ARGS,
            "model_family_name": "gpt",
            "model_recipe_name": "vanilla_gpt",
            "use_recipes": True,
            "max_steps": 4,
            "seq_length": 32,
            "mb": 1,
            "gb": 4,
        },
    }
    after = [{"type": "start_post_comp", "id": "twice"}]
    tests: list[dict[str, Any]] = [
        {"id": "twice", "test_name": "small", "iterations": 2},
        {"id": "behind", "test_name": "small", "dependencies": after},
        {"id": "swept", "test_name": "small", "cmd_args": {"pp": [1, 2], "vp": [1, 3]}},
    ]
    options = files(user, tests, small)
    done = user.run("cloudai", "run", *options, "--json", timeout_s=900, status=None)
    assert done.returncode == 0, done.stderr[-4000:]
    answer = json.loads(done.stdout)
    cases = {one["name"]: one for one in answer["cases"]}
    # That the recipe has two layers is known once it was run: check 2 refuses three virtual stages of two ranks.
    refused = {name: one["detail"] for name, one in cases.items() if one["phase"] == "refused"}
    assert {name for name, one in cases.items() if one["phase"] == "finished"} == cases.keys() - refused.keys()
    assert [name for name in cases if name.startswith("swept")] == [f"swept/0/{number}" for number in range(1, 5)]
    assert any("check 2: 2 layers cannot be divided by pp x vp = 2 x 3" in text for text in refused.values()), refused
    root = Path(answer["result_dir"])
    report = json.loads((root / "twice/0/training_report.json").read_text())
    losses = [step["loss"] for step in report["steps"]]
    assert len(losses) == 4
    assert losses == [step["loss"] for step in json.loads((root / "twice/1/training_report.json").read_text())["steps"]]
    config = report["config"]
    assert (config["num_layers"], config["hidden_size"], config["seq_length"], config["world_size"]) == (2, 32, 32, 2)
    assert config["data_parallel_size"] == 2
    # What Bridge writes for CloudAI lies where CloudAI looks.
    assert (root / "twice/0/configs/ConfigContainer.yaml").is_file()
    assert list((root / "twice/0/tb_logs").glob("*tfevents*"))


def test_an_agent_chooses_by_results_and_others_wait_for_its_last_point(user: User) -> None:
    """Bayesian optimization of six trials; micro-batches are drawn, and noted beside the trajectory.

    Four points are asked for at first. A test that waits for all of them begins behind the last one, and one that goes
    on as long as they do is ended then.
    """
    pytest.importorskip("optuna")
    test = {
        **TEST,
        "cmd_args": {**ARGS, "seq_length": [512, 1024, 2048, 4096], "mb": [1, 2], "gb": 4},
        "agent": "bayesian_optimization",
        "agent_steps": 6,
        "env_params": {"mb": {"weights": [0.5, 0.5]}},
    }
    long = {**TEST, "name": "long", "extra_cmd_args": {"toy.iters": "100000", "toy.seconds": "0.05"}}
    plain = {**TEST, "name": "plain"}
    tests: list[dict[str, Any]] = [
        {"id": "agent", "test_name": "small"},
        {"id": "behind", "test_name": "plain", "dependencies": [{"type": "start_post_comp", "id": "agent"}]},
        {"id": "beside", "test_name": "long", "dependencies": [{"type": "end_post_comp", "id": "agent"}]},
        {"id": "last", "test_name": "plain", "dependencies": [{"type": "start_post_comp", "id": "behind"}]},
    ]
    options = files(user, tests, test, plain, long)
    told = user.run("cloudai", "run", *options, f"--entrypoint={TOY}", "--no-wait", "--json", timeout_s=120)
    first = json.loads(told.stdout)
    assert set(first["jobs"]) == {"agent", "beside"}
    assert "behind is submitted by this command, or by `run --continue`, once all points of agent" in told.stderr
    more = ("cloudai", "run", *options, f"--entrypoint={TOY}", f"--continue={first['result_dir']}", "--json")
    done = user.run(*more, timeout_s=240, status=1)
    answer = json.loads(done.stdout)
    cases = {one["name"]: one for one in answer["cases"]}
    phases = {name: one["phase"] for name, one in cases.items()}
    wanted_phases = dict.fromkeys((*(f"agent/0/{number}" for number in range(1, 7)), "behind/0", "last/0"), "finished")
    assert phases == {**wanted_phases, "beside/0": "cancelled"}, done.stderr[-3000:]
    ended = [events(Path(cases[f"agent/0/{number}"]["run_dir"]))[1] for number in range(1, 7)]
    began = {name: events(Path(cases[f"{name}/0"]["run_dir"]))[0] for name in ("behind", "beside", "last")}
    assert began["beside"] < max(ended) < began["behind"] < began["last"]
    root = Path(answer["result_dir"])
    rows = list(csv.DictReader((root / "agent/0/trajectory.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5", "6"]
    assert all(row["action"].startswith("{'seq_length': ") for row in rows)
    drawn = list(csv.DictReader((root / "agent/0/metadata.csv").read_text().splitlines()))
    wanted = [random.Random(f"0:mb:{trial}").choices([1, 2], weights=[0.5, 0.5])[0] for trial in range(1, 7)]  # noqa: S311
    assert [int(row["env_params.mb"]) for row in drawn] == wanted


def test_an_agent_whose_test_ends_with_another_asks_for_no_further_point(user: User) -> None:
    pytest.importorskip("optuna")
    slow = {"toy.iters": "100000", "toy.seconds": "0.05"}
    agent = {"agent": "bayesian_optimization", "agent_steps": 20}
    test = {**TEST, "extra_cmd_args": slow, "cmd_args": {**ARGS, "seq_length": [512, 1024, 2048, 4096, 8192]}, **agent}
    tests: list[dict[str, Any]] = [
        {"id": "agent", "test_name": "small", "dependencies": [{"type": "end_post_comp", "id": "main"}]},
        {"id": "main", "test_name": "plain"},
    ]
    options = files(user, tests, test, {**TEST, "name": "plain"})
    done = user.run("cloudai", "run", *options, f"--entrypoint={TOY}", "--json", timeout_s=120, status=1)
    answer = json.loads(done.stdout)
    phases = {one["name"]: one["phase"] for one in answer["cases"]}
    assert phases == {**{f"agent/0/{number}": "cancelled" for number in range(1, 5)}, "main/0": "finished"}
    more = ("cloudai", "run", *options, f"--entrypoint={TOY}", f"--continue={answer['result_dir']}", "--json")
    again = json.loads(user.run(*more, timeout_s=60, status=1).stdout)
    assert len(again["cases"]) == 5, "nothing more is asked for later"
