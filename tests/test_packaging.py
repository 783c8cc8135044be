"""An installed wheel works like a checkout: templates, profiles, recipes and the half in the job are found."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as pip would fill it from the wheel."""
    directory = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(directory)!r}))"
    built = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    site = directory / "site"
    zipfile.ZipFile(directory / built.stdout.split()[-1]).extractall(site)
    return site


def launcher(site: Path, directory: Path, *arguments: str) -> str:
    """The output of the wheel's own `launcher`."""
    environ = {**os.environ, "PYTHONPATH": str(site), "LAUNCHER_CLUSTER": "local"}
    argv = [sys.executable, "-m", "launcher", *arguments]
    return subprocess.run(argv, cwd=directory, env=environ, capture_output=True, text=True, check=True).stdout


def test_what_ships_lies_under_the_package(site: Path) -> None:
    names = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    for path in (
        "templates",
        "recipes",
        "configs/clusters",
        "configs/schemas",
        "configs/models",
        "configs/bridge",
        "docs/how-to",
    ):
        for file in (ROOT / path).iterdir():
            if file.is_file():
                assert f"launcher/share/{path}/{file.name}" in names
    assert "launcher/share/entrypoint.py" in names
    for name in ("bridge-0.3.1", "cpu", "gpu", "torch"):  # what the Dockerfile installs
        assert f"launcher/share/requirements/{name}.txt" in names
    assert not [name for name in names if not name.startswith(("launcher/", "megatron_launcher-"))]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_plans_and_runs(site: Path, tmp_path: Path) -> None:
    assert "vanilla_gpt_pretrain  " in launcher(site, tmp_path, "recipes")
    asked: tuple[str, ...] = ("plan", "vanilla_gpt_pretrain", "--json", "--no-check-config")
    shipped = json.loads(launcher(site, tmp_path, *asked))["plan"]["code"]
    assert [source for _, source in shipped if source.startswith(f"{site}/launcher/share/recipes/vanilla")]
    assert launcher(site, tmp_path, "help", "images").startswith("# Images")
    (tmp_path / "small.py").write_text("def configure():\n    return None\n")
    asked = ("plan", "small.py", "train.train_iters=3", "--json", "--no-check-config")
    plan = json.loads(launcher(site, tmp_path, *asked))
    sources = {source for target, source in plan["plan"]["code"] if not target.startswith("recipe/")}
    assert all(source.startswith(str(site)) for source in sources)
    toy = str(ROOT / "tests/toy/entrypoint.py")
    answer = json.loads(launcher(site, tmp_path, "run", "small.py", "--entrypoint", toy, "--json", "toy.iters=2"))
    assert answer["outcome"] == "finished"
    assert (Path(answer["run_dir"]) / "code/launcher/job/result.py").is_file()


def test_commands_do_not_load_what_they_do_not_need() -> None:
    code = (
        "import sys\nfrom launcher.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'megatron', 'nemo_run', 'submitit', 'jinja2', 'sh', 'rich', 'hydra', 'pydantic'}\n"
        "heavy |= {'launcher.contract.records', 'launcher.planning.memory', 'launcher.cli.parser'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))\n"
    )

    def loaded(*arguments: str) -> str:
        argv = [sys.executable, "-c", code, *arguments]
        out = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return out.rpartition("LOADED ")[2].strip()

    assert loaded("--help") == "[]"
    recipe = "recipes/vanilla_gpt_pretrain.py"
    assert loaded("plan", "--cluster", "local", recipe, "train.train_iters=20") == "['launcher.cli.parser']"
