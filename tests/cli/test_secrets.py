"""A secret that is given by value is refused in every place where it can be given, and is in no file and no answer."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from launcher._util.tables import aligned, safe
from launcher.contract.variables import is_secret_key, secret_in, secret_in_code, secret_of_assignment
from launcher.planning.overrides import load_schema
from tests.support.cli_server import ROOT, Server, server
from tests.support.limits import seconds

CANARY = "canary7f3a7f3a7f3a"
URL = f"https://ada:{CANARY}@host.example"
PLAN = ("plan", "small.py")

WAYS: Mapping[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "a variable": ((*PLAN, "--env", f"HF_TOKEN={CANARY}"), {}),
    "a variable with a URL": ((*PLAN, "--env", f"HTTPS_PROXY={URL}"), {}),
    "a variable with a token": ((*PLAN, "--env", f"PLAIN=hf_{CANARY}{CANARY}"), {}),
    "an override": ((*PLAN, f"logger.comet_api_key={CANARY}"), {}),
    "an override in quotes": ((*PLAN, f"+logger.comet_api_key='{CANARY}'"), {}),
    "an override of env_vars": ((*PLAN, f"env_vars.HF_TOKEN={CANARY}"), {}),
    "an override of a section": ((*PLAN, f"logger={{comet_api_key: {CANARY}}}"), {}),
    "an override of all env_vars": ((*PLAN, f"env_vars={{A: 1, WANDB_API_KEY: {CANARY}}}"), {}),
    "an override with a URL": ((*PLAN, f"checkpoint.save={URL}/x"), {}),
    "an argument of the recipe": ((*PLAN, f"hf_token={CANARY}"), {}),
    "env_vars of the recipe": (PLAN, {"small.py": f'def configure():\n    return {{"HF_TOKEN": "{CANARY}"}}\n'}),
    "the text of the recipe": (PLAN, {"small.py": f'def configure(url="{URL}"):\n    return None\n'}),
    "a file that the recipe imports": (
        PLAN,
        {
            "small.py": "import keys\n\ndef configure():\n    return keys\n",
            "keys.py": f'wandb_api_key = "{CANARY}"\n',
        },
    ),
    "a file that travels with the recipe": ((*PLAN, "--ship", "my.env"), {"my.env": f'HF_TOKEN="{CANARY}"\n'}),
    "the program": ((*PLAN, "--entrypoint", "p.py"), {"p.py": f'import os\nos.environ["A_SECRET"] = "{CANARY}"\n'}),
    "a job file": (("plan", "job.toml"), {"job.toml": f'recipe = "small.py"\nenv = ["HF_TOKEN={CANARY}"]\n'}),
    "an override of a job file": (
        ("plan", "job.toml"),
        {"job.toml": f'recipe = "small.py"\nassignments = ["logger.comet_api_key={CANARY}"]\n'},
    ),
    "defaults": (PLAN, {"launcher.toml": f'run_root = "{URL}"\n'}),
    "an unknown key of the defaults": (PLAN, {"launcher.toml": f'hf_token = "{CANARY}"\n'}),
    "a profile": ((*PLAN, "--cluster", "mine"), {"clusters/mine.toml": f'[env]\nHF_TOKEN = "{CANARY}"\n'}),
    "a URL of a profile": ((*PLAN, "--cluster", "mine"), {"clusters/mine.toml": f'[env]\nHTTP_PROXY = "{URL}"\n'}),
    "srun_args of a profile": (
        (*PLAN, "--cluster", "mine"),
        {"clusters/mine.toml": f'srun_args = ["--export=ALL,HF_TOKEN={CANARY}"]\n'},
    ),
    "the path of the runs": ((*PLAN, "--run-root", URL), {}),
    "an image": ((*PLAN, "--image", f"docker://ada:{CANARY}@host.example/a:b"), {}),
    "a registry": (("image", "import", f"docker://ada:{CANARY}@host.example/a:b"), {}),
    "an argument of srun": ((*PLAN, f"--srun-arg=--export=ALL,HF_TOKEN={CANARY}"), {}),
    "an option of sbatch": ((*PLAN, "--sbatch", f"bb=HF_TOKEN={CANARY}"), {}),
    "an argument of nsys": ((*PLAN, "--nsys", f"--nsys-arg=--env-var=HF_TOKEN={CANARY}"), {}),
    "an unknown option": ((*PLAN, f"--hf-token={CANARY}"), {}),
}


@pytest.fixture(scope="module")
def cli() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_by_value_is_refused_and_written_nowhere(way: str, cli: Server, tmp_path: Path) -> None:
    arguments, files = WAYS[way]
    (tmp_path / "clusters").mkdir()
    for name, text in {"small.py": "def configure(hf_token=None):\n    return None\n", **files}.items():
        (tmp_path / name).write_text(text)
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "LAUNCHER_CLUSTERS": str(tmp_path / "clusters"),
        **({} if "--cluster" in arguments else {"LAUNCHER_CLUSTER": "local"}),
    }
    for command in ("plan", "run") if arguments[0] == "plan" else (arguments[0],):
        for more in ([], ["--json"]):
            answer = cli.call([command, *arguments[1:], *more], tmp_path, environ, limit_s=seconds(10))
            assert answer.status == 2, answer
            assert CANARY not in answer.stdout + answer.stderr
            assert not more or json.loads(answer.stdout)["error"]["message"]
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {Path("small.py"), *map(Path, files)}


def test_secrets_are_seen_in_arguments_of_programs() -> None:
    for text in (f"--export=ALL,HF_TOKEN={CANARY}", f"--env-var=A=1,WANDB_API_KEY={CANARY}", f"bb=HF_TOKEN={CANARY}"):
        assert (secret_in(text) or "").startswith("a value of ")
        assert CANARY not in (secret_in(text) or "")
    assert secret_in(URL) == "a password in a URL"


def test_what_is_not_a_secret_is_not_refused() -> None:
    for version in ("0.6.2", "0.3.1"):
        assert {key for key in load_schema(version).keys if is_secret_key(key)} <= {"logger.comet_api_key"}
    for text in (
        *("logger.comet_api_key=null", "logger.comet_api_key=", "logger.comet_api_key='${oc.env:COMET_API_KEY}'"),
        *("model.moe_token_dispatcher_type=flex", "env_vars.NCCL_DEBUG=INFO", "dataset.image_token='<img>'"),
    ):
        assert secret_of_assignment(text) is None
    for text in (
        "https://host/a:b@c",
        "docker://ada@host/a:b",
        "git@host:a/b",
        "/a:/b@c",
        "https://ada:$PASSWORD@host",
    ):
        assert secret_in(text) is None
    for text in (
        'token = os.environ["HF_TOKEN"]',
        'pad_token = "<padding>"',
        'names = ("HF_TOKEN", "WANDB_API_KEY")',
        "# postgres://ada:password@host",
        'url = f"https://{user}:{password}@host"',
        'api_key: str = ""',
    ):
        assert secret_in_code(text) is None, text
    for path in (ROOT / "recipes").glob("*.py"):
        assert secret_in_code(path.read_text()) is None


HOSTILE = "a\x1b[2Jb\x1b]0;title\x07c\rd\x9b31me\u202ef\x7f\x08"


def test_control_characters_reach_a_terminal_as_escape_sequences_alone() -> None:
    for text in (safe(HOSTILE), *aligned([(HOSTILE, "b"), ("a\nb", HOSTILE)])):
        assert text.isprintable()
    assert "\\x1b[2J" in safe(HOSTILE)
    assert safe("a\tb\nc\x1b[31md\x1b[0m") == "a\tb\nc\x1b[31md\x1b[0m"
    assert "\x1b" not in safe("\x1b[41m\x1b[6n")


def test_no_listing_prints_control_characters(cli: Server, tmp_path: Path) -> None:
    (tmp_path / "clusters").mkdir()
    escaped = json.dumps(HOSTILE).replace("\x7f", "\\u007f")
    profile = f'extends = "local"\ndescription = {escaped}\n[env]\nA = {escaped}\n'
    (tmp_path / "clusters/mine.toml").write_text(profile)
    (tmp_path / "clusters/bad\x1b[2J.toml").write_text("gpus = 1\n")
    (tmp_path / "small.py").write_text("def configure(text=None):\n    return None\n")
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LAUNCHER_CLUSTERS": str(tmp_path / "clusters")}
    for arguments in (
        ("clusters",),
        ("clusters", "show", "mine"),
        ("plan", "small.py", "--no-check-config", "--cluster", "mine", f"text={HOSTILE}", "--env", f"B={HOSTILE}"),
        ("status", HOSTILE),
        ("clusters", "show", HOSTILE),
        (HOSTILE,),
    ):
        answer = cli.call(arguments, tmp_path, environ, limit_s=seconds(10))
        said = answer.stdout + answer.stderr
        assert "[2J" in said
        assert answer.status == (2 if HOSTILE in arguments else 0), said
        assert said.replace("\n", "").replace("\t", "").isprintable(), (arguments, said)
