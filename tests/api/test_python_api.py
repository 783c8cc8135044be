"""`import launcher`: what it loads, what it offers, and the examples of its page. Those on a Slurm take 12 s."""

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import launcher
from launcher.api.scripting import RunOptions
from launcher.config.request import Request
from tests.backends.running import ROOT, TOY, User, user_of
from tests.support.slurm.virtual_cluster import VirtualCluster

PAGE = ROOT / "docs/how-to/python-api.md"


def python(user: User, code: str, *, status: int = 0) -> str:
    """Run code in a process of its own and return what it printed."""
    return user.call([sys.executable, "-c", code], status=status).stdout


def examples() -> dict[str, list[str]]:
    """Return the page's blocks of Python by the heading above."""
    found: dict[str, list[str]] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        found[section.partition("\n")[0]] = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return found


def with_toy(code: str) -> str:
    """Return the example, run with a program in place of training that needs no Megatron."""
    return f"""
import launcher

def with_toy(function):
    options = {{"entrypoint": {TOY!r}, "gpus_per_node": 1}}
    return lambda recipe, *assignments, **more: function("small.py", *assignments, **options | more)

launcher.run, launcher.submit = with_toy(launcher.run), with_toy(launcher.submit)
{code}"""


def test_the_import_loads_one_module() -> None:
    code = "import sys; before = set(sys.modules); import launcher; print(*sorted(set(sys.modules) - before))"
    # Not even `site` of this environment, which imports what its .pth files name.
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["launcher"]


NOT_EVERYWHERE = (
    *("launcher.job", "launcher.__main__", "launcher.nemo_run"),
    *(() if importlib.util.find_spec("submitit") else ("launcher.submitit",)),
)
"""The job's half needs the training stack, __main__ runs the command, the others need the extras of their names."""


def test_every_name_is_offered_and_none_is_replaced_by_a_module() -> None:
    package = Path(launcher.__file__).parent
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        if not name.startswith(("launcher.share", *NOT_EVERYWHERE)):
            importlib.import_module(name)
    assert launcher.__all__ == sorted(launcher.__all__)
    assert set(launcher.__all__) <= set(dir(launcher))
    for name in launcher.__all__:
        assert not inspect.ismodule(getattr(launcher, name)), name
    for name in ("plan", "run", "submit", "runs"):
        assert callable(getattr(launcher, name))
    with pytest.raises(AttributeError, match="nothing"):
        launcher.nothing  # noqa: B018


def test_every_error_is_offered() -> None:
    from launcher._util import errors

    raised = {
        name for name, one in vars(errors).items() if inspect.isclass(one) and issubclass(one, errors.LauncherError)
    }
    assert raised <= set(launcher.__all__)


def test_the_options_are_those_of_a_request() -> None:
    own = {"recipe", "assignments", "default_image", "default_mounts"}
    assert set(get_type_hints(RunOptions)) == set(Request.model_fields) - own


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(launcher.ConfigError, match="time: 'soon' is not a time limit"):
        launcher.plan("small.py", time="soon")
    with pytest.raises(launcher.ConfigError, match="node: unknown key; did you mean nodes"):
        launcher.plan("small.py", node=2)  # type: ignore[call-arg]


def test_each_function_works_after_every_submodule_is_imported(tmp_path: Path) -> None:
    user = user_of(tmp_path)
    code = f"""
import importlib, sys
from pathlib import Path
import launcher
root = Path(launcher.__file__).parent
names = [".".join(("launcher", *path.relative_to(root).with_suffix("").parts)) for path in root.rglob("*.py")]
names = [name.removesuffix(".__init__") for name in names if not name.startswith({NOT_EVERYWHERE!r})]
assert len(names) > 300
for name in names:
    importlib.import_module(name)
assert "torch" not in sys.modules
options = dict(entrypoint={TOY!r}, gpus_per_node=1)
plan = launcher.plan("small.py", "text=a", **options)
assert isinstance(plan, launcher.Plan) and list(plan.scripts) == ["step.sh"], list(plan.scripts)
assert plan.to_dict()["argv"]["arguments"] == {{"text": "a"}}
run = launcher.run("small.py", "toy.iters=3", **options, env={{"A": "b", "PATH": None}})
assert isinstance(run, launcher.Run)
assert run.result()["outcome"] == "finished" and run.wait().phase.good
assert [line["iteration"] for line in run.metrics()] == [1, 2, 3]
assert "iteration 3/3" in run.logs(rank=0)
assert run.cancel().endswith("ended: finished"), run.cancel()
assert launcher.runs() == [run] == [launcher.Run.find("small")]
try:
    launcher.submit("small.py", **options)
except launcher.PrerequisiteError as error:
    print("no Slurm", error.hint)
"""
    assert "no Slurm" in python(user, code)
    (run,) = user.runs()
    assert user.seen(run)[0]["environment"]["A"] == "b"


@pytest.mark.parametrize("code", examples()["Plan"], ids=["plan", "refused"])
def test_examples_of_plans(code: str, tmp_path: Path) -> None:
    user = user_of(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    # On a login node: the programs are never started.
    (tmp_path / "bin").mkdir()
    for program in ("srun", "sbatch"):
        (tmp_path / "bin" / program).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "bin" / program).chmod(0o755)
    user.environ["PATH"] = f"{tmp_path / 'bin'}:{user.environ['PATH']}"
    out = python(user, code)
    assert "sbatch.sh" in out or "did you mean train.train_iters" in out
    assert not (tmp_path / "runs").exists()


def test_examples_of_runs_here(tmp_path: Path) -> None:
    user = user_of(tmp_path)
    (here,) = examples()["Run here"]
    assert python(user, with_toy(here)) == "finished\n"
    (find,) = examples()["Find runs again"]
    assert "finished" in python(user, find.replace("vanilla_gpt_pretrain", "small"))


def test_examples_on_a_slurm(tmp_path: Path, slurm_cluster: VirtualCluster) -> None:
    user = user_of(tmp_path, slurm_cluster)
    submit, sweep = examples()["Submit, and wait"]
    out = python(user, with_toy(submit)).splitlines()
    assert out[1].startswith("finished")
    assert out[2].endswith(" 5")
    assert python(user, with_toy(sweep)) == "lr-1e-4 finished\nlr-3e-4 finished\n"
    code = f"""
import launcher
run = launcher.submit("small.py", "toy.iters=10000", entrypoint={TOY!r}, gpus_per_node=1)
while run.status().phase != "running":
    pass
try:
    run.wait(0.2)
except TimeoutError as error:
    print(error)
print(run.cancel(save=True), run.wait(60, poll_s=0.5).phase, sep="; ")
"""
    late, cancelled = python(user, code).splitlines()
    assert late.endswith("is still running after 0.2 s")
    assert cancelled == "the ranks will save and stop after this iteration; stopped"
