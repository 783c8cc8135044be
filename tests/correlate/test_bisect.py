"""Which change, and which commit, makes two trainings differ: the search over trainings that stand for real ones."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from launcher._util.errors import ConfigError, OutsideError, RecipeError
from launcher.api.progress import Silent
from launcher.config.request import Request
from launcher.correlate.axes import Training, changed, read_axis, split_values
from launcher.correlate.bisect import Bisection, bisect, steps_of
from launcher.correlate.correlate import Pair, matched
from launcher.correlate.running import Ended, Wanted
from tests.correlate.test_repeats import recorded
from tests.correlate.test_sources import git

BRIDGE = "bridge:vanilla_gpt_pretrain_config"
WORDS = ("--num-layers", "2", "--hidden-size", "64", "--num-attention-heads", "4", "--train-iters", "8", "--lr", "3e-4")


class Trainings:
    """Stands for trainings: a function says by how much the losses of a request lie above those of others."""

    def __init__(self, directory: Path, shift: Callable[[Request], float]) -> None:
        self.directory, self.shift = directory, shift
        self.requests: list[Request] = []

    def __call__(self, wanted: Sequence[Wanted]) -> list[Ended]:
        found = []
        for one in wanted:
            self.requests.append(one.request)
            path = self.directory / str(len(self.requests))
            found.append(Ended(one.name, recorded(path, self.shift(one.request))))
        return found


def search(pair: Pair, directory: Path, shift: Callable[[Request], float]) -> tuple[Bisection, Trainings]:
    trainings = Trainings(directory, shift)
    return bisect(pair, trainings, Silent(), on_cpu=True, directory=Path.cwd()), trainings


KEYS = [f"model.key_{number}" for number in range(8)]
LEFT = Training("recipe.py", tuple(f"{key}=1" for key in KEYS))
PAIR = Pair(LEFT, dataclasses.replace(LEFT, assignments=tuple(f"{key}=2" for key in KEYS)), match="none")


@pytest.mark.parametrize("culprit", range(8))
def test_the_first_setting_that_makes_a_difference_is_found(culprit: int, tmp_path: Path) -> None:
    found, trainings = search(PAIR, tmp_path, lambda one: 1e-3 * (f"{KEYS[culprit]}=2" in one.assignments))
    assert found.first == f"{KEYS[culprit]}: 1 and 2"
    assert found.others == ()
    assert len(trainings.requests) <= 2 + 1 + 3 + 1, "noise, all changes, three halvings, all but the one"


def test_a_second_setting_is_not_hidden_by_the_first(tmp_path: Path) -> None:
    found, _ = search(
        PAIR, tmp_path, lambda one: 1e-3 * (f"{KEYS[2]}=2" in one.assignments or f"{KEYS[5]}=2" in one.assignments)
    )
    assert found.first == f"{KEYS[2]}: 1 and 2"
    assert f"{KEYS[5]}: 1 and 2" in found.others


def test_a_change_within_the_noise_does_not_count(tmp_path: Path) -> None:
    """The left training differs from itself by 1e-3: a change of 1.5e-3 is in its noise, and one of 1e-2 is not."""
    seen: list[int] = []

    def noisy(one: Request) -> float:
        seen.append(1)
        return (1e-3 if len(seen) == 2 else 0.0) + 1.5e-3 * (f"{KEYS[0]}=2" in one.assignments)

    found, _ = search(PAIR, tmp_path / "small", noisy)
    assert found.first is None
    assert found.noise == pytest.approx(1e-3, rel=1e-2)
    seen.clear()
    found, _ = search(PAIR, tmp_path / "large", lambda one: noisy(one) + 1e-2 * (f"{KEYS[4]}=2" in one.assignments))
    assert found.first == f"{KEYS[4]}: 1 and 2"


def test_what_the_losses_do_not_show_is_not_called_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.correlate.test_repeats.LOSSES", (11.0, 10.0))
    with pytest.raises(OutsideError, match="all changes: undecided: equal from iteration 1 to 2, but"):
        search(PAIR, tmp_path, lambda _: 0.0)


def test_equal_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the same request"):
        search(dataclasses.replace(PAIR, right=LEFT), tmp_path, lambda _: 0.0)


@pytest.mark.parametrize(
    ("axes", "culprit", "first"),
    [
        (("image=a.sqsh,b.sqsh", "env.X=1,2"), lambda one: one.image == "b.sqsh", "image: a.sqsh and b.sqsh"),
        (("image=a.sqsh,b.sqsh", "env.X=1,2"), lambda one: "X=2" in one.env, "env.X: X=1 and X=2"),
        (("nodes=1,2", "model.a=1,2"), lambda one: one.nodes == 2, "nodes: 1 and 2"),
        (
            ("mcore=installed,/core", "model.a=[1,2],[3]"),
            lambda one: one.mcore == "/core",
            "mcore: (not given) and /core",
        ),
        (
            ("mcore=installed,/core", "model.a=[1,2],[3]"),
            lambda one: "model.a=[3]" in one.assignments,
            "model.a: [1,2] and [3]",
        ),
    ],
)
def test_axes_that_are_options_are_changes_like_settings(
    axes: Sequence[str], culprit: Callable[[Request], bool], first: str, tmp_path: Path
) -> None:
    left = right = Training("recipe.py")
    for text in axes:
        axis, one, other = read_axis(text)
        left, right = changed(left, axis, one), changed(right, axis, other)
    pair = Pair(left, right, match="none", options={"env": ("BOTH=1",)})
    found, trainings = search(pair, tmp_path, lambda request: 1e-3 * culprit(request))
    assert found.first == first
    assert all("BOTH=1" in request.env for request in trainings.requests)


def test_arguments_of_megatron_lm_are_changes(tmp_path: Path) -> None:
    left = Training("mlm:gpt", words=(*WORDS, "--adam-beta2", "0.95"))
    right = Training("mlm:gpt", words=(*WORDS, "--swiglu", "--adam-beta2=0.99", "--seed", "1"))
    _, steps = steps_of(Pair(left, right))
    assert [one.name for one in steps] == [
        "--adam-beta2 0.95 and --adam-beta2=0.99",
        "(not given) and --swiglu",
        "(not given) and --seed 1",
    ]
    found, _ = search(Pair(left, right, match="none"), tmp_path, lambda one: 1e-3 * ("--swiglu" in one.mlm_arguments))
    assert found.first == "(not given) and --swiglu"


def test_between_the_frameworks_the_recipe_gets_its_own_settings_one_by_one(tmp_path: Path) -> None:
    """Keys that one argument of Megatron-LM sets together are one change."""
    pair = Pair(Training("mlm:gpt", words=WORDS), Training(BRIDGE, ("optimizer.lr=3e-4",)), match="none")
    first, steps = steps_of(pair)
    assert first.recipe == BRIDGE
    names = [one.name for one in steps]
    assert any(name.startswith("optimizer.adam_beta2: the float 0.999 and the float 0.95") for name in names)
    together = next(name for name in names if "use_distributed_optimizer" in name)
    assert "ddp.use_distributed_optimizer" in together
    assert "optimizer.use_distributed_optimizer" in together
    found, _ = search(pair, tmp_path, lambda one: 1e-3 * ("scheduler.lr_decay_style=cosine" in one.assignments))
    assert str(found.first).startswith("scheduler.lr_decay_style")


# ---- commits


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a recipe, and eight commits after the first one."""
    path = tmp_path / "mine"
    (path / "recipes").mkdir(parents=True)
    git(tmp_path, "init", "-q", str(path))
    for number in range(9):
        (path / "recipes" / "small.py").write_text(f"NUMBER = {number}\n\n\ndef configure():\n    return None\n")
        git(path, "add", "-A")
        git(path, "commit", "-qm", str(number))
    return path


def history(repository: Path) -> list[str]:
    return git(repository, "log", "--format=%H", "--reverse").split()


def number_of(request: Request) -> int:
    return int(Path(str(request.recipe).partition(":")[0]).read_text().split()[2])


@pytest.mark.parametrize("guilty", [1, 4, 8])
def test_the_first_commit_of_a_recipe_is_found_after_the_settings(
    guilty: int, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    commits = history(repository)
    training = Training(f"{repository}/recipes/small.py:configure")
    pair = Pair(
        changed(changed(training, "commit", commits[0][:10]), "model.a", "1"),
        changed(changed(training, "commit", commits[8][:10]), "model.a", "2"),
        match="none",
    )
    found, trainings = search(pair, tmp_path / "runs", lambda one: 1e-3 * (number_of(one) >= guilty))
    assert str(found.first).startswith("commit: ")
    assert (found.commit, found.before) == (commits[guilty], commits[guilty - 1])
    assert commits[guilty] in found.sentence
    assert all(str(request.recipe).endswith("recipes/small.py:configure") for request in trainings.requests)


def test_commits_of_megatron_core_are_searched(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    commits = history(repository)
    left, right = (changed(Training(BRIDGE), "mcore", f"{repository}@{commits[at]}") for at in (0, 8))
    guilty = {f"{repository}@{commit}" for commit in commits[5:]}
    found, _ = search(Pair(left, right, match="none"), tmp_path / "runs", lambda one: 1e-3 * (one.mcore in guilty))
    assert (found.commit, found.before) == (f"{repository}@{commits[5]}", f"{repository}@{commits[4]}")


def test_equal_commits_those_in_the_wrong_order_and_recipes_without_commits_are_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    commits = history(repository)
    training = Training(f"{repository}/recipes/small.py")
    pair = Pair(changed(training, "commit", commits[8]), changed(training, "commit", commits[0]), match="none")
    with pytest.raises(RecipeError, match="is not an ancestor"):
        search(pair, tmp_path / "a", lambda _: pytest.fail("a training was run"))
    pair = Pair(changed(training, "commit", commits[8]), changed(training, "commit", commits[8][:12]), match="none")
    with pytest.raises(RecipeError, match="are the same commit"):
        search(pair, tmp_path / "a", lambda _: pytest.fail("a training was run"))
    for recipe in (BRIDGE, "mlm:gpt"):
        pair = Pair(
            changed(Training(recipe), "commit", "abc"), changed(Training(recipe), "commit", "def"), match="none"
        )
        with pytest.raises(ConfigError, match=r"no commits here|no checkout"):
            search(pair, tmp_path / "b", lambda _: 0.0)


# ---- axes


@pytest.mark.parametrize(
    ("text", "values"),
    [("1,2", ["1", "2"]), ("[1,2],[3]", ["[1,2]", "[3]"]), ("{a:1,b:2},null", ["{a:1,b:2}", "null"]), ("1", ["1"])],
)
def test_values_are_split_outside_brackets(text: str, values: list[str]) -> None:
    assert split_values(text) == values


@pytest.mark.parametrize("text", ["model.a", "model.a=1", "model.a=1,2,3", "=1,2", "model.a=,2"])
def test_an_axis_has_two_values(text: str) -> None:
    with pytest.raises(ConfigError, match="AXIS=A,B"):
        read_axis(text)


def test_a_commit_of_digits_alone_stays_a_text() -> None:
    training = changed(Training("mlm:gpt"), "mlm-source", "1234567")
    assert changed(training, "nodes", "2").options == {"mlm_source": "1234567", "nodes": 2}


def test_a_key_of_bridge_is_said_in_megatron_lms_words() -> None:
    found = changed(Training("mlm:gpt", words=WORDS), "optimizer.adam_beta2", "0.9")
    assert found.words[-2:] == ("--adam-beta2", "0.9")
    assert changed(Training("mlm:gpt", words=WORDS), "adam_beta2", "0.9").words == found.words


def test_a_matched_pair_keeps_options_of_its_sides() -> None:
    left, right = (changed(Training(BRIDGE), "env.X", value) for value in ("1", "2"))
    asked, _, _ = matched(Pair(left, right, match="none"), on_cpu=True)
    assert [side.options["env"] for side in (asked.left, asked.right)] == [("X=1",), ("X=2",)]
