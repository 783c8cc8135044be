"""Sweep files: what they become, and the message of each wrong value."""

from pathlib import Path

import pytest

from launcher._util.errors import ConfigError
from launcher.sweep.file import SweepFile, load_sweep
from launcher.sweep.points import Range, SweepPoint

GOOD = """\
[run]
recipe = "small.py"
nodes = 1
assignments = ["toy.iters=5"]
env = ["A=b"]
[axes]
image = ["one", "two"]
[axes.env]
NCCL_ALGO = ["Ring", "Tree"]
[axes.overrides]
"train.lr" = [1e-4, 0.1]
flag = [true]
"""


def written(directory: Path, text: str) -> SweepFile:
    (directory / "first.toml").write_text(text)
    return load_sweep(directory / "first.toml")


def test_a_point_becomes_a_request(tmp_path: Path) -> None:
    sweep = written(tmp_path, GOOD)
    assert [axis.key for axis in sweep.definition.axes] == ["image", "env.NCCL_ALGO", "train.lr", "flag"]
    point = SweepPoint.of({"image": "two", "env.NCCL_ALGO": "Tree", "train.lr": 1e-4, "flag": True})
    assert sweep.definition.request_of(point).stated() == {
        "name": "first",
        "recipe": str(tmp_path / "small.py"),
        "nodes": 1,
        "image": "two",
        "assignments": ("toy.iters=5", "train.lr=0.0001", "flag=true"),
        "env": ("A=b", "NCCL_ALGO=Tree"),
    }
    recipes = written(tmp_path, '[axes]\nrecipe = ["a.py", "bridge:b", "/c.py"]\n')
    shown = [
        recipes.definition.request_of(SweepPoint.of({"recipe": each})).recipe for each in ("a.py", "bridge:b", "/c.py")
    ]
    assert shown == [str(tmp_path / "a.py"), "bridge:b", "/c.py"]


def test_the_metric_decides_what_is_better(tmp_path: Path) -> None:
    assert written(tmp_path, GOOD).definition.reward == "inverse"
    assert written(tmp_path, f'metric = "tflops_per_gpu"\n{GOOD}').definition.reward == "identity"
    assert written(tmp_path, f'metric = "loss"\nreward = "inverse"\n{GOOD}').definition.reward == "inverse"


def test_a_list_of_points_and_a_range(tmp_path: Path) -> None:
    listed = written(tmp_path, 'strategy = "list"\n[[points]]\nnodes = 2\n"train.lr" = 0.1\n[[points]]\nx = [1, 2]\n')
    assert [point.label for point in listed.points] == ["nodes=2 train.lr=0.1", "x=[1,2]"]
    drawn = written(
        tmp_path,
        'strategy = "random"\ntrials = 5\n[axes.overrides]\nlr = {low = 1e-5, high = 1e-2, log = true}\n'
        "[draws.seed]\nvalues = [1, 2]\nweights = [0.25, 0.75]\n",
    )
    assert drawn.definition.axes[0].values == Range(1e-5, 1e-2, log=True)
    assert drawn.definition.draws[0].weights == (0.25, 0.75)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nme = 'x'\n" + GOOD, "nme: unknown key; did you mean name"),
        ("name = 'a b'\n" + GOOD, "'a b' is not a name"),
        ("strategy = 'all'\n" + GOOD, "strategy: must be 'agent', 'grid', 'list' or 'random'"),
        ("trials = 5\n" + GOOD, "trials: the strategy grid takes all points"),
        ("strategy = 'random'\n" + GOOD, "trials: the strategy random needs their number"),
        ("trials = 0\n" + GOOD, "trials: must be a whole number from 1 to 1000000, not 0"),
        ("seed = 'x'\n" + GOOD, "seed: must be a whole number, not a text"),
        ("repeat = 'often'\n" + GOOD, "repeat"),
        ("repeat = 0\n" + GOOD, "repeat"),
        ("max_repeats = 1\n" + GOOD, "max_repeats: must be a whole number from 2 to 100, not 1"),
        ("max_parallel = 0\n" + GOOD, "max_parallel: must be a whole number above 0, not 0"),
        ("metric = 'speed'\n" + GOOD, "metric: 'speed' is not one of step_time_s"),
        ("warmup_steps = -1\n" + GOOD, "warmup_steps: must be a whole number of at least 0, not -1"),
        ("failure_reward = 'x'\n" + GOOD, "failure_reward"),
        ("[agent]\nsampler = 'tpe'\n" + GOOD, "agent: only the strategy agent has one"),
        (GOOD.replace("nodes = 1", "node = 1"), "run.node: unknown key; did you mean nodes"),
        (GOOD.replace("nodes = 1", "name = 'x'"), "run.name: a sweep does not take it"),
        (GOOD.replace("nodes = 1", "attempts = 2"), "run.attempts: a sweep does not take it"),
        (GOOD.replace("nodes = 1", "resume = 'x'"), "run.resume: a sweep does not take it"),
        (GOOD.replace("small.py", "job.toml"), "run.recipe: a sweep does not take a job file"),
        (GOOD.replace('["one", "two"]', "[]"), "axes.image: must be a list with at least 1 item"),
        (GOOD.replace('image = ["one", "two"]', "nodes = [1, 2]"), "nodes varies, and [run] states it as well"),
        (GOOD.replace("NCCL_ALGO", "A"), "env.A varies, and [run] states it as well"),
        (GOOD.replace("flag", '"toy.iters"'), "toy.iters varies, and [run] states it as well"),
        (GOOD.replace("flag", "nodes"), "axes.overrides.nodes: this is an option or a variable"),
        (GOOD.replace("flag", '"env.X"'), "axes.overrides.env.X: this is an option or a variable"),
        (GOOD.replace("[true]", "{low = 2, high = 1}"), "low=2 is not below high=1"),
        (GOOD.replace("[true]", "{low = 0, high = 1, log = true}"), "log needs a range above 0"),
        (GOOD.replace("[true]", "{low = 0.5, high = 2, integer = true}"), "the bounds of a range of integers"),
        (GOOD.replace("[true]", "{low = 1, high = 2}"), "flag is a range"),
        (GOOD.replace("[true]", "[nan]"), "flag: nan is not a finite number"),
        ("[run]\nrecipe = 'a.py'\n", "axes: the sweep has none"),
        ("strategy = 'list'\n[run]\nrecipe = 'a.py'\n", "points: the strategy list needs them"),
        (GOOD + "[[points]]\nnodes = 1\n", "points: only the strategy list has them"),
        ("strategy = 'list'\n" + GOOD + "[[points]]\nx = 1\n", "axes: the strategy list has points, not axes"),
        (GOOD + "[draws.x]\nvalues = [1, 2]\n", "draws: values are drawn only where a strategy draws"),
        (GOOD + "[draws.x]\nvalues = [1]\n", "draws.x.values: must be a list with at least 2 items"),
        (GOOD + "[draws.x]\nvalues = [1, 2]\nweights = [1.0]\n", "there are 2 values and 1 weights"),
        (GOOD + "[draws.x]\nvalues = [1, 2]\nweights = [0.5, 0.6]\n", "the weights add up to 1.1, not to 1"),
        (GOOD + "[draws.x]\nvalues = [1, 2]\nweights = [-1.0, 2.0]\n", "draws.x.weights.0: must be a finite number"),
        ("= 1", "cannot be read"),
    ],
)
def test_each_wrong_value_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        written(tmp_path, text)
    assert words in raised.value.message
    assert str(tmp_path / "first.toml") in str(raised.value.where) or "is a range" in words or "finite" in words


def test_a_secret_in_a_point_is_refused_and_not_shown(tmp_path: Path) -> None:
    variable = GOOD.replace("NCCL_ALGO", "HF_TOKEN").replace("Ring", "canary")
    override = GOOD.replace("flag", '"logger.wandb_api_key"').replace("[true]", '["canary"]')
    listed = "strategy = 'list'\n[[points]]\n'env.WANDB_API_KEY' = 'canary'\n"
    drawn = "strategy = 'random'\ntrials = 2\n" + GOOD + "[draws.'env.MY_PASSWORD']\nvalues = ['canary', 'x']\n"
    for text in (variable, override, listed, drawn):
        with pytest.raises(ConfigError, match="looks like a secret") as raised:
            written(tmp_path, text)
        assert "canary" not in str(raised.value) + str(raised.value.where) + str(raised.value.hint)
