"""Wrong inputs as a table: what is given, and how the command ends.

Each row says the command line, the files beside it, the exit status and a word of the message. Options are taken from
the parsers themselves, so that a new one gets its rows.
"""

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.cli.main import COMMANDS, command_parser
from tests.support.cli_server import Output

RUN_ID = "20260101-000000-aaaaaaaaaaaa"
RUN = f"runs/small/{RUN_ID}"
ATTEMPT = f"{RUN}/attempts/000"
LONG = "x" * 300
DEEP = "[" * 3000
HUGE = "x" * 70_000


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Size:
    """A sparse file of so many bytes."""

    bytes: int


@dataclass(frozen=True)
class Edit:
    """Values that replace those of a JSON file."""

    values: Mapping[str, Any]


class Fifo:
    """A named pipe that no process writes to."""


class Directory:
    """A directory."""


class Gone:
    """Nothing: the file is removed."""


Content = str | bytes | Link | Size | Edit | Fifo | Directory | Gone


@dataclass(frozen=True)
class Row:
    """One wrong input."""

    arguments: tuple[str, ...]
    words: str = ""
    """Text of the message."""
    status: int | tuple[int, ...] = 2
    files: Mapping[str, Content] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    output: Output = "file"
    limit_bytes: int = 2000
    """Of both streams together; a table of runs may be longer."""

    def write(self, directory: Path) -> None:
        """Write the files into a directory."""
        for name, content in self.files.items():
            _write(directory / name, content)


def _write(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Edit):
        content = json.dumps({**json.loads(path.read_text()), **content.values})
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match content:
        case str():
            path.write_text(content)
        case bytes():
            path.write_bytes(content)
        case Link():
            path.symlink_to(content.target)
        case Size():
            path.touch()
            os.truncate(path, content.bytes)
        case Fifo():
            os.mkfifo(path)
        case Directory():
            path.mkdir()


def rows(*arguments: str, cases: Sequence[tuple[Content, str]], name: str, status: int = 2) -> Iterator[Row]:
    """Yield a row for each content of the file `name`."""
    for content, words in cases:
        yield Row(arguments, words, status, {name: content})


NOT_A_FILE: Sequence[tuple[Content, str]] = (
    (Fifo(), "is not a regular file"),
    (Directory(), "directory"),
    (Link("here.py"), "symbolic links"),
)
PLAN = ("plan", "here.py")


def recipes() -> Iterator[Row]:
    """Yield wrong recipes."""
    cases: list[tuple[Content, str]] = [
        (Fifo(), "is not a regular file"),
        (Directory(), "is a directory"),
        (Link("here.py"), "too many levels"),
        (Link("nowhere.py"), "no recipe"),
        (Link("/dev/zero"), "is not a regular file"),
        (Size(30 << 20), "is larger than 1 MiB"),
        ("x = " + "-" * 200_000 + "1\n", "nested too deeply"),
        ("x = " + "(" * 5000 + ")" * 5000 + "\n", "not valid Python"),
        ("x = " + "[" * 250 + "]" * 250 + "\n", "too many nested"),
        ("x = 1" + " + 1" * 100_000 + "\n", "nested too deeply"),
        (b"\xff\xfe\x00", "the recipe"),
        (b"def configure():\n    return '\xff'\n", "not valid Python"),
        (b"# coding: nonsense\n", "not valid Python"),
        ("def configure(\n", "not valid Python"),
        ("def configure():\n\treturn 1\n        return 2\n", "not valid Python"),
        ("x = 1\0\n", "null bytes"),
        ("", "no function 'configure'"),
        ("class configure: pass\n", "no function 'configure'"),
        ("def configure(needed):\n    return None\n", "needs needed"),
        ("def configure(*, a, b):\n    return None\n", "needs a, b"),
        ("9" * 5000 + "\n", "not valid Python"),
    ]
    yield from rows(*PLAN, cases=cases, name="here.py")
    texts: list[tuple[str, str]] = [
        ("", "RECIPE"),
        ("missing.py", "no recipe 'missing.py'"),
        ("~nouser/x.py", "no user 'nouser'"),
        (f"{LONG}.py", "file name too long"),
        (f"{'d/' * 3000}x.py", "file name too long"),
        ("small.py/x.py", "no recipe"),
        ("small.py:missing", "no function 'missing'"),
        ("small.py:", "no function ''"),
        ("small.txt", "is not a recipe"),
        ("small", "is not a recipe"),
        (".py", "no recipe"),
        ("..", "is not a recipe"),
        ("/", "is not a recipe"),
        ("bridge:", "is not the name of a Bridge recipe"),
        ("bridge:a b", "is not the name of a Bridge recipe"),
        ("bridge:" + LONG, ""),
        (HUGE, "characters"),
        ("$(touch trap).py", "no recipe"),
        ("job.toml", "no job file"),
        (f"{LONG}.toml", "file name too long"),
        ("~nouser/job.toml", "no user 'nouser'"),
        ("\udcff.py", "not UTF-8"),
    ]
    for text, words in texts:
        yield Row(("plan", text), words)
    yield Row(("run",), "no recipe was given")
    yield Row(("submit",), "no recipe was given")


def overrides() -> Iterator[Row]:
    """Yield wrong assignments."""
    cases = [
        ("x", "is not KEY=VALUE"),
        ("=1", ""),
        ("train.train_iters", "is not KEY=VALUE"),
        ("train.train_iters=", ""),
        ("train.train_iters=abc", "integer"),
        ("train.train_iters=1.5", "integer"),
        ("train.train_iters=1e3", "train.train_iters=1000"),
        ("train.train_iters=true", "integer"),
        ("train.train_iters=" + "9" * 5000, ""),
        ("train.train_iters=٣", "grammar"),
        ("train.train_itres=3", "train.train_iters"),
        ("~train.train_iters", "delete a key"),
        ("train.train_iters=1,2,3", "sweep"),
        ("train.train_iters=range(1,3)", "sweep"),
        ("train.train_iters=???", "missing"),
        ("a/b=1", ""),
        ("model.num_layers={", "grammar"),
        ("model.num_layers=[1", "grammar"),
        ("train.train_iters='3", "grammar"),
        ("txet=3", "takes: text, other"),
        ("train.train_iters={a: 1}", "integer"),
        ("model.num_layers.x=1", "no keys below"),
        ("x" * 5000 + "=1", ""),
        ("a." * 3000 + "b=1", ""),
        ("checkpoint.save=None", "write checkpoint.save=null"),
        ("checkpoint.load=none", "write checkpoint.load=null"),
        ("train.train_iters=None", "write train.train_iters=null"),
        ("data=None", "would be the name"),
        ("tokenizer=none", "would be the name"),
        ("model.num_layers=" + "[" * 3000, "nested 3000 deep"),
        ("model.num_layers=[" + "1," * 5000 + "1]", "5001 items"),
        ("data=", "data= is empty"),
        ("data=0.5,0.5", "do not alternate"),
        ("data_columns=a,b,c", "PROMPT,COMPLETION"),
        ("peft=lore", "did you mean lora"),
        ("\udcff=1", "not UTF-8"),
    ]
    for text, words in cases:
        yield Row(("plan", "small.py", text), words)
    for option, value, words in (
        ("--time", "99:99:99", "99 is not below 60"),
        ("--time", "1-24", "24 is not below 24"),
        ("--time", "30:99", "99 is not below 60"),
        ("--time", "٣", "is not a time limit"),
        ("--time", "9" * 30, "is not a time limit"),
        ("--time", "soon", "is not a time limit"),
        ("--env", "1A=b", "is not a name"),
        ("--env", "=b", "is not a name"),
        ("--env", "RANK=3", "is set for each rank"),
        ("--env", "SLURM_JOB_ID=3", "is set for each rank"),
        ("--env", "HF_TOKEN=x", "looks like a secret"),
        ("--env", "NOT_SET_ANYWHERE", "has none"),
        ("--name", "a/b", "a run's name is"),
        ("--name", LONG, "a run's name is"),
        ("--nodes", "100001", "from 1 to 100000"),
        ("--gpus-per-node", "99999", "from 1 to 1024"),
        ("--mount", "/x", "needs a container"),
        ("--cluster", "no\nwhere", "no cluster profile"),
        ("--cluster", "", "--cluster"),
    ):
        yield Row(("plan", "small.py", option, value), words)
    yield Row(("plan", "small.py", "--image", "x.sqsh", "--runtime", "none"), "needs a container")
    yield Row(("plan", "small.py", *(f"a{number}=1" for number in range(2000))), "is not a key")


def job_files() -> Iterator[Row]:
    """Yield wrong job files."""
    named = 'recipe = "small.py"\n'
    cases: list[tuple[Content, str]] = [
        (Fifo(), "is not a regular file"),
        (Directory(), "is a directory"),
        (Link("job.toml"), "too many levels"),
        (Link("/dev/zero"), "is not a regular file"),
        (Size(20 << 20), "is larger than 256 KiB"),
        (b"\xff\xfe", "cannot be read"),
        (b"\x00" * 100, "cannot be read"),
        ("", "no recipe was given"),
        ("recipe =\n", "cannot be read"),
        ('recipe = "small.py"\n' * 2, "cannot be read"),
        ("a = " + "[" * 5000, "cannot be read"),
        ("[" + ".".join("a" * 2000) + "]\nx = 1\n", "nested more than"),
        ("sbatch = " + "{a=" * 200 + "1" + "}" * 200, "nested more than"),
        ("recipe = 1\n", "recipe"),
        ("recipe = []\n", "recipe"),
        ('recipe = ""\n', "recipe"),
        ('recipe = "a\\u0000b.py"\n', "NUL"),
        ('recipe = "~nouser/x.py"\n', "no user 'nouser'"),
        (f'recipe = "{LONG}.py"\n', "file name too long"),
        ('recipe = "other.toml"\n', "is not a recipe"),
        ('recipe = "job.toml"\n', "is not a recipe"),
        (named + "nodes = true\n", "nodes"),
        (named + 'nodes = "2"\n', "nodes"),
        (named + "nodes = 1.0\n", "nodes"),
        (named + "nodes = 0\n", "must be a whole number from 1"),
        (named + "nodes = -1\n", "must be a whole number from 1"),
        (named + f"nodes = {'9' * 400}\n", "nodes"),
        (named + f"nodes = {'9' * 5000}\n", "cannot be read"),
        (named + "nodes = 2026-01-01\n", "nodes"),
        (named + "gpus_per_node = true\n", "gpus_per_node"),
        (named + "gpus_per_node = 100000\n", "gpus_per_node"),
        (named + 'shared = "yes"\n', "shared"),
        (named + "shared = 1\n", "shared"),
        (named + "nsys = 1\n", "nsys"),
        (named + 'check_config = "no"\n', "check_config"),
        (named + "time = true\n", "time"),
        (named + 'time = "soon"\n', "is not a time limit"),
        (named + 'time = "99:99:99"\n', "99 is not below 60"),
        (named + 'time = "1-30:00"\n', "30 is not below 24"),
        (named + 'time = "٣"\n', "is not a time limit"),
        (named + "time = -5\n", "is not a time limit"),
        (named + 'assignments = "a=1"\n', "assignments"),
        (named + "assignments = [1]\n", "assignments"),
        (named + 'assignments = ["a\\u0000=1"]\n', "NUL"),
        (named + 'env = {A = "1"}\n', "env"),
        (named + 'env = ["1A=2"]\n', "is not a name"),
        (named + 'env = ["RANK=2"]\n', "is set for each rank"),
        (named + 'env = ["HF_TOKEN=x"]\n', "looks like a secret"),
        (named + 'env = ["A=\\u0000"]\n', "NUL"),
        (named + 'mounts = "/x"\n', "mounts"),
        (named + 'mounts = ["a\\u0000b"]\n', "NUL"),
        (named + 'run_root = "a\\u0000b"\n', "NUL"),
        (named + 'python = "a\\u0000b"\n', "NUL"),
        (named + 'image = "a\\u0000b"\n', "NUL"),
        (named + 'entrypoint = "a\\u0000b.py"\n', "NUL"),
        (named + 'name = "a b"\n', "a run's name is"),
        (named + "name = 3\n", "name"),
        (named + 'runtime = "docker"\n', "runtime"),
        (named + 'verify = "half"\n', "verify"),
        (named + 'init = "zero"\n', "init"),
        (named + "sbatch = 1\n", "sbatch"),
        (named + "sbatch = {mem = [1]}\n", "sbatch"),
        (named + "nods = 2\n", "did you mean nodes?"),
        (named + "".join(f"unknown{number} = 1\n" for number in range(3000)), "more"),
        (named + 'resume = "nothing"\n', "no run 'nothing'"),
    ]
    yield from rows("plan", "job.toml", cases=cases, name="job.toml")


def profiles() -> Iterator[Row]:
    """Yield wrong cluster profiles, shown and planned with."""
    cases: list[tuple[Content, str]] = [
        (Fifo(), "is not a regular file"),
        (Directory(), "is a directory"),
        (Link("mine.toml"), "too many levels"),
        (Link("nowhere"), "no such file"),
        (Size(20 << 20), "is larger than 256 KiB"),
        (b"\xff", "cannot be read"),
        ("= 8\n", "cannot be read"),
        ("extends = " + "[" * 3000 + "]" * 3000 + "\n", "cannot be read"),
        ("[" + ".".join("a" * 1500) + "]\nx = 1\n", "nested more than"),
        ('extends = ["slurm"]\n', "extends is the name of one profile"),
        ("extends = 3\n", "extends is the name of one profile"),
        ('extends = "mine"\n', "circle"),
        ('extends = "nowhere"\n', "no cluster profile 'nowhere'"),
        ('extends = "../mine"\n', "no cluster profile"),
        ("gpus_per_node = true\n", "gpus_per_node"),
        ('gpus_per_node = "8"\n', "gpus_per_node"),
        ("gpus_per_node = 0\n", "must be a whole number from 1"),
        ("gpus_per_node = 1.0\n", "gpus_per_node"),
        ('sharp = "yes"\n', "sharp"),
        ("numa_binding = 1\n", "numa_binding"),
        ('scheduler = "pbs"\n', "scheduler"),
        ('runtime = "docker"\n', "runtime"),
        ('network = "maybe"\n', "network"),
        ('fabric = "token ring"\n', "fabric"),
        ('architecture = "sparc"\n', "architecture"),
        ('device = "tpu"\n', "device"),
        ('image = ""\n', "image"),
        ('image = "a\\u0000b"\n', "NUL"),
        ('mounts = "/x"\n', "mounts"),
        ("mounts = [1]\n", "mounts"),
        ("env = 3\n", "env"),
        ('[env]\nRANK = "0"\n', "RANK cannot be set"),
        ('[env]\nHF_TOKEN = "hf_x"\n', "looks like a secret"),
        ('[env]\n"a b" = "1"\n', "env"),
        ("[env]\nA = 1\n", "env.A"),
        ('[env]\nA = "\\u0000"\n', "NUL"),
        ("[directives]\nmem = [1]\n", "directives"),
        ("[directives]\nmem = 1.5\n", "directives"),
        ('time_limit = "99:99:99"\n', "not below 60"),
        ('time_limit = "soon"\n', "is not a time limit"),
        ('unset = "env"\n', "unset"),
        ('extends = "slurm"\nunset = ["nothing"]\n', "unset names"),
        ("[expect]\nmatmul_tflops = true\n", "matmul_tflops"),
        ("[expect]\nmatmul_tflops = inf\n", "matmul_tflops"),
        ("[expect]\nmatmul_tflops = -1.0\n", "matmul_tflops"),
        ("gpus = 8\n", "did you mean gpu?"),
        ("".join(f"unknown{number} = 1\n" for number in range(5000)), "more"),
        (f'description = "{HUGE}"\ngpus = 1\n', "unknown key"),
    ]
    yield from rows("clusters", "show", "mine", cases=cases, name="clusters/mine.toml")
    yield from rows("plan", "small.py", "--cluster", "mine", cases=cases[::3], name="clusters/mine.toml")
    circle = {
        "clusters/a.toml": 'extends = "b"\n',
        "clusters/b.toml": 'extends = "c"\n',
        "clusters/c.toml": 'extends = "a"\n',
    }
    yield Row(("clusters", "show", "a"), "a -> b -> c -> a", files=circle)
    long_chain = {f"clusters/p{number}.toml": f'extends = "p{number + 1}"\n' for number in range(300)}
    yield Row(("clusters", "show", "p0"), "p300", files=long_chain)
    yield Row(("clusters", "show"), "which profile?")
    yield Row(("clusters", "show", LONG), "no cluster profile")
    yield Row(("clusters", "show", "a\nb"), "no cluster profile")
    yield Row(("clusters", "list", "x"), "takes no name")
    yield Row(("clusters", "list", "--output", "x.toml"), "belongs to clusters probe")
    yield Row(("clusters", "probe", "--output", "x.txt"), "ends in .toml")
    yield Row(("clusters", "probe", "--output", "~nouser/x.toml"), "no user 'nouser'")
    yield Row(("clusters", "probe", "--output", f"{LONG}.toml"), "file name too long")
    yield Row(("clusters", "probe", "--output", "small.toml"), "is there already", files={"small.toml": ""})


def defaults() -> Iterator[Row]:
    """Yield wrong files and variables that preset options."""
    cases: list[tuple[Content, str]] = [
        (Fifo(), "is not a regular file"),
        (Directory(), "is a directory"),
        (Link("launcher.toml"), "too many levels"),
        (Link("nowhere"), "no such file"),
        (Size(20 << 20), "is larger than 256 KiB"),
        (b"\xff", "cannot be read"),
        ("cluster = [\n", "cannot be read"),
        ("cluster = " + "[" * 3000, "cannot be read"),
        ("nodes = 3\n", "belongs to one run"),
        ("clutser = 3\n", "did you mean cluster?"),
        ("cluster = 3\n", "cluster"),
        ('cluster = ""\n', "cluster"),
        ('shared = "yes"\n', "shared"),
        ('time = "99:99:99"\n', "not below 60"),
        ('run_root = "a\\u0000b"\n', "NUL"),
        ('run_root = "small.py"\n', "is not a directory"),
        (f'run_root = "{LONG}"\n', ""),
        ('runtime = "docker"\n', "runtime"),
    ]
    yield from rows("plan", "small.py", cases=[case for case in cases if case[1]], name="launcher.toml")
    yield from rows("status", cases=[case for case in cases[:9] if case[1]], name="launcher.toml")
    own = ".config/launcher/config.toml"
    yield from rows("plan", "small.py", cases=[*cases[:2], *cases[3:6]], name=own)
    for name, value, words in (
        ("LAUNCHER_CLUSTER", "nowhere", "no cluster profile 'nowhere'"),
        ("LAUNCHER_TIME", "soon", "LAUNCHER_TIME"),
        ("LAUNCHER_TIME", "99:99:99", "LAUNCHER_TIME"),
        ("LAUNCHER_SHARED", "perhaps", "LAUNCHER_SHARED"),
        ("LAUNCHER_RUNTIME", "docker", "LAUNCHER_RUNTIME"),
        ("LAUNCHER_RUN_ROOT", "small.py", "is not a directory"),
        ("LAUNCHER_RUN_ROOT", "a%b", "does not take literally"),
        ("SLURM_JOB_ID", "7", "SLURM_JOB_NUM_NODES"),
    ):
        yield Row(("plan", "small.py"), words, environ={name: value})


def paths() -> Iterator[Row]:
    """Yield wrong paths of options."""
    for option in ("--entrypoint", "--python"):
        yield Row(("plan", "small.py", option, "~nouser/x"), "no user 'nouser'")
    yield Row(("plan", "small.py", "--python", f"./{LONG}"), "file name too long")
    for value, words in (
        ("missing.py", "no program"),
        (f"{LONG}.py", "file name too long"),
        ("fifo", "no program"),
        (".", "no program"),
        ("loop", "too many levels"),
    ):
        yield Row(("plan", "small.py", "--entrypoint", value), words, files={"fifo": Fifo(), "loop": Link("loop")})
    for value, words in (
        ("small.py", "is not a directory"),
        ("small.py/deep/er", "is not a directory"),
        ("a%b", "does not take literally"),
        ("a\nb", "does not take literally"),
        ("a\\b", "does not take literally"),
        ("", "--run-root"),
        (HUGE, "characters"),
    ):
        yield Row(("plan", "small.py", "--run-root", value), words)
    for command in ("status", "logs", "cancel", "page", "profiles"):
        run = () if command == "status" else ("x",)
        yield Row((command, *run, "--run-root", "small.py"), "is not a directory")
        if run or command == "status":
            yield Row((command, LONG), "file name too long")
            yield Row((command, "~nouser/x"), "no user 'nouser'")
            yield Row((command, "loop"), "too many levels", files={"loop": Link("loop")})
            yield Row((command, "nothing"), "there is no run 'nothing'")
            yield Row((command, ""), "there is no run ''")
            yield Row((command, HUGE), "")
    for value, words in (
        ("--profiler=missing.py:A", "no file"),
        (f"--profiler={LONG}.py:A", "file name too long"),
        ("--profiler=small.py:A", "no class"),
        ("--profiler=fifo.py:A", "is not a regular file"),
        ("--profiler=torhc", "torch"),
        ("--profile-steps=9", "profile-steps"),
        ("--profile-steps=9:3", ""),
        ("--profile-ranks=x", "profile-ranks"),
    ):
        yield Row(("plan", "small.py", "--profiler=torch", value), words, files={"fifo.py": Fifo()})
    for value, words in (
        ("x", "no image"),
        ("./missing.sqsh", "no image"),
        ("./small.py", "small.py"),
        ("./fifo.sqsh", ""),
        (f"./{LONG}.sqsh", ""),
        ("~nouser/x.sqsh", ""),
        ("a b c", ""),
        ("nvcr.io#nvidia/nemo:26.08", "no image"),
    ):
        arguments = ("plan", "small.py", "--runtime", "bwrap", "--image", value)
        yield Row(arguments, words, files={"fifo.sqsh": Fifo()})
        yield Row(("image", "verify", value), "", files={"fifo.sqsh": Fifo()})
    for value, words in (
        ("./missing", "does not exist"),
        (f"./{LONG}", "file name too long"),
        ("~nouser/x", ""),
    ):
        yield Row(("image", "import", value), words, files={"fifo": Fifo()})


_FILES = (
    *("plan.json", "journal.jsonl", "lease", "attempts", "latest", "page.html"),
    *(f"attempts/000/{name}" for name in ("result.json", "start", "metrics.jsonl", "timeline.jsonl", "config.yaml")),
    *(f"attempts/000/{name}" for name in ("logs/rank-0000.log", "logs/srun.log", "ranks/node-0000.jsonl")),
)
_DAMAGES: Sequence[Content] = (
    Fifo(),
    Directory(),
    Gone(),
    "",
    "[]",
    '{"a": 1}',
    b"\xff\xfe\n",
    DEEP + "]" * 3000,
    Link("loop"),
)
_WRONG_RESULTS: Sequence[Mapping[str, Any]] = (
    {"outcome": 3},
    {"outcome": []},
    {"outcome": "failed", "first_failing_rank": 3},
    {"outcome": "failed", "first_failing_rank": {"rank": "x"}},
    {"outcome": "failed", "first_failing_rank": {"rank": 10**30, "what": [], "host": {}}},
    {"outcome": "failed", "first_failing_rank": {"what": None}},
    {"iteration": "two", "train_iters": {}, "loss": "x", "seconds_per_iteration": []},
    {"profiles": 3},
    {"profiles": {"missing": 3, "captured": "x"}},
    {"reason": ["x"], "exceptions": 3},
)
_WRONG_PLANS: Sequence[Mapping[str, Any]] = (
    {"request": []},
    {"request": {"nodes": "x"}},
    {"request": {"assignments": 3}},
    {"request": {"unknown": 3}},
    {"layout": []},
    {"layout": {}},
    {"layout": {"nodes": "two"}},
    {"argv": None},
    {"argv": {"recipe": {}, "overrides": []}},
    {"argv": {"recipe": {"path": "small.py", "function": "configure"}, "overrides": {}}},
    {"argv": {"recipe": 3, "overrides": [{"key": 1}]}},
    {"recipe": 3},
)
_WORLDS: Sequence[Mapping[str, Any]] = (
    {"world_size": "two"},
    {"world_size": None},
    {"world_size": []},
    {"world_size": -3},
    {"world_size": 10**18},
    {"warnings": 3, "environment": {"a": 1}, "mounts": 3, "overrides": {"x": 1}, "directives": [[]]},
    {"image": 3, "container": "x", "profiler": [], "step": None, "backend": {"a": 1}},
    {"name": [], "run_id": {}, "run_dir": 3, "cluster": None},
)


def runs() -> Iterator[Row]:
    """Yield damaged runs."""
    commands: list[tuple[str, ...]] = [(name, RUN) for name in ("status", "logs", "page", "profiles", "cancel")]
    number = 0
    for name in _FILES:
        for damage in _DAMAGES:
            files = {f"{RUN}/{name}": damage}
            yield Row(commands[number % len(commands)], "", (0, 1, 2, 3), files)
            number += 1
    for result in _WRONG_RESULTS:
        for command in commands[:4]:
            yield Row(command, "", (0, 1, 2, 3), {f"{ATTEMPT}/result.json": Edit(result)})
    for plan in _WORLDS:
        for command in [("logs", RUN, "--rank", "all"), *commands[:4]]:
            yield Row(command, "", (0, 1, 2, 3), {f"{RUN}/plan.json": Edit(plan)})
    for damage in (*_DAMAGES[:2], *_DAMAGES[3:-1], Size(100 << 20), *map(Edit, _WRONG_PLANS)):
        for how in ("run", "submit"):
            yield Row((how, "--resume", RUN), "plan", 3, {f"{RUN}/plan.json": damage})
    for arguments, words in (
        (("logs", RUN, "--rank", "x"), "no rank 'x'"),
        (("logs", RUN, "--rank", "9"), "no rank '9'"),
        (("logs", RUN, "--rank", "٣"), "no rank"),
        (("logs", RUN, "--rank", "-1"), "no rank"),
        (("logs", RUN, "--attempt", "9"), "no attempt '9'"),
        (("logs", RUN, "--attempt", "x"), "no attempt 'x'"),
        (("profiles", RUN, "--attempt", "9"), "no attempt '9'"),
        (("page", RUN, "--output", "small.py/x"), ""),
        (("page", RUN, "--output", "."), "this is not a file"),
        (("page", RUN, "--output", f"{LONG}.html"), "file name too long"),
        (("cancel", RUN, "nothing"), "there is no run 'nothing'"),
        (("run", "small.py", "--resume", RUN), "with its own recipe"),
        (("run", "--resume", RUN, "--nodes", "x"), "--nodes"),
        (("run", "--resume", RUN), "nothing to continue"),
    ):
        yield Row(arguments, words, (2, 3), {f"{RUN}/note": ""})


def imports() -> Iterator[Row]:
    """Yield what cannot be imported."""
    yield Row(("image", "import", "./fifo"), "is not a regular file", 3, {"fifo": Fifo()})


def usage() -> Iterator[Row]:
    """Yield wrong words for every command and option, from the parsers."""
    yield Row(("rnu",), "did you mean 'run'")
    yield Row((LONG,), "is not a command")
    yield Row(("small.py",), "launcher run small.py")
    yield Row(("--nodes", "2", "run"), "unknown option --nodes")
    yield Row(("--json", "status"), "unknown option --json")
    for command in COMMANDS:
        for words, parser in _parsers((command,), command_parser(command)):
            yield from _options(words, parser)


def _parsers(
    words: tuple[str, ...], parser: argparse.ArgumentParser
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    nested = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    if not nested:
        yield words, parser
        return
    yield from (((*words, name), one) for name, one in nested[0].choices.items())


_NUMBERS = ("x", "", "1.5", "٣", "1_000", "0x10", " 3", "9" * 30)


def _names(parser: argparse.ArgumentParser) -> frozenset[str]:
    return frozenset(option for action in parser._actions for option in action.option_strings)


def _options(words: tuple[str, ...], parser: argparse.ArgumentParser) -> Iterator[Row]:
    """Yield wrong uses of each option of a parser."""
    needed = [each for each in parser._actions if not each.option_strings and each.nargs in (None, "+")]
    required = [
        word
        for each in parser._actions
        if each.required and each.option_strings
        for word in (each.option_strings[0], str(next(iter(each.choices or "1"))))
    ]
    given = (*words, *(str(next(iter(each.choices or "x"))) for each in needed), *required)
    yield Row((*given, "--no-such-option"), "unknown option --no-such-option")
    yield Row((*given, "--no-such-option", "--json"), "unknown option --no-such-option")
    # Commands that share options have them from one function: it is enough to try those of `run`.
    shared = _names(command_parser("run")) if words in (("submit",), ("plan",), ("fetch",)) else frozenset[str]()
    for action in parser._actions:
        if shared.issuperset(action.option_strings):
            continue
        if not action.option_strings or action.help == argparse.SUPPRESS or "--help" in action.option_strings:
            continue
        option = action.option_strings[0]
        if action.nargs == 0:
            yield Row((*given, f"{option}=yes"), "ignored explicit argument")
            continue
        # An option whose argument may be left out is right without one.
        yield from [Row((*given, option), f"{option}: expected one argument")] * (action.nargs != "?")
        if action.choices is not None:
            yield Row((*given, option, "zero"), "invalid choice")
        elif action.type is not None and action.dest != "output":
            fractions = option in ("--hang-limit", "--rendezvous-timeout", "--tolerance", "--dropout", "--watch")
            numbers = [value for value in _NUMBERS[:3] if not fractions or value != "1.5"]
            yield from (Row((*given, f"{option}={value}"), option) for value in numbers)
            if words in (("run",), ("status",), ("doctor",)):
                yield from (Row((*given, f"{option}={value}"), option) for value in _NUMBERS[3:])
    for option, hint in (
        ("--mem=4G", "--sbatch mem=VALUE"),
        ("--gres=gpu:8", "--sbatch gres=VALUE"),
        ("--exclusive", "--sbatch exclusive"),
        ("--dependency=afterok:7", "--sbatch dependency=VALUE"),
        ("--job-name=x", "--name"),
        ("-Jx", "--name"),
        ("-p", "--partition"),
        ("--ntasks-per-node=8", "--gpus-per-node"),
        ("--output=x", "logs lie in the run directory"),
    ):
        if words in (("run",), ("submit",), ("plan",)):
            yield Row((*words, option), hint)


def output() -> Iterator[Row]:
    """Yield commands whose output cannot be written."""
    for arguments in (
        ("recipes",),
        ("recipes", "--json"),
        ("plan", "small.py", "--no-check-config"),
        ("clusters",),
        ("run", "--help"),
        (),
    ):
        yield Row(arguments, "standard output cannot be written", 3, output="full")


GROUPS = {
    "recipes": recipes,
    "overrides": overrides,
    "job files": job_files,
    "profiles": profiles,
    "defaults": defaults,
    "paths": paths,
    "runs": runs,
    "imports": imports,
    "usage": usage,
    "output": output,
}
