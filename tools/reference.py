"""Write the reference pages of docs/reference from the code: `make reference`. A test compares them with it."""

import argparse
import ast
import importlib
import inspect
import itertools
import json
import pkgutil
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from msgspec import NODEFAULT, structs

from launcher._util import errors, toml
from launcher.cli import arguments
from launcher.cli.main import COMMANDS, command_parser
from launcher.config import load
from launcher.config.cluster import Cluster, ExpectedPerformance, Rendezvous, Retry, Ssh
from launcher.config.image import ImageSpec
from launcher.config.model import Model, default_of
from launcher.config.request import Request
from launcher.contract import failures, records
from launcher.contract.paths import AttemptPaths, RunPaths
from launcher.contract.records.ranks import StartRecord
from launcher.correlate import tolerances
from launcher.planning.option_effects import effect_of

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import messages  # noqa: E402 - from the checkout that this file lies in

DIRECTORY = ROOT / "docs" / "reference"
JOB_FILE = """\
# job.toml: launcher submit job.toml train.train_iters=50
recipe = "recipes/llama3_8b_pretrain.py"     # as seen from this file
assignments = ["train.train_iters=100", "train.global_batch_size=64"]
cluster = "mine"
nodes = 4
time = "2:00:00"
env = ["NCCL_DEBUG=INFO"]

[sbatch]
exclusive = true
"""
NOTE = "<!-- Written by `make reference` from the code; do not edit. -->\n"


def pages() -> dict[str, str]:
    """Return every generated page: its file's name and its text."""
    return {
        "command-line.md": command_line(),
        "cluster-profile.md": cluster_profile(),
        "request.md": request(),
        "defaults.md": defaults(),
        "exit-status.md": exit_status(),
        "tolerances.md": NOTE + tolerances.page(),
        "failures.md": failures_page(),
        "messages.md": messages_page(),
        "image-description.md": image_description(),
        "run-directory.md": run_directory(),
        "records.md": records_page(),
    }


# --- Markdown ---------------------------------------------------------------------------------------------------------


def sentences(text: str) -> str:
    """Put each sentence of a paragraph on a line of its own."""
    return re.sub(r"(?<=[a-z0-9`)\"'])([.?!]) (?=[A-Z`])", r"\1\n", " ".join(text.split()))


def prose(text: str) -> str:
    """Turn the text of a help page into Markdown: paragraphs, and indented lines as code."""
    parts = []
    for block in text.strip("\n").split("\n\n"):
        for code, lines in itertools.groupby(block.splitlines(), key=lambda line: line.startswith("  ")):
            part = "\n".join(lines)
            parts.append(f"```\n{textwrap.dedent(part)}\n```" if code else sentences(escaped(part)))
    return "\n\n".join(parts)


def escaped(text: str) -> str:
    """Keep what Markdown would take for HTML as it is."""
    return re.sub(r"<(?=[a-zA-Z/])", r"\\<", text)


def cell(text: str) -> str:
    """Return text for a table: one line, its bars escaped."""
    return " ".join(escaped(text).split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell(entry) for entry in line)} |" for line in lines)


# --- Command line -----------------------------------------------------------------------------------------------------


def command_line() -> str:
    """Return the page of all commands and options."""
    parts = [
        "# Command line",
        "Options may stand before and after RECIPE and KEY=VALUE.\n"
        "The words behind `--` are another program's: Megatron-LM's arguments, the command of `exec`.\n"
        "`--json` prints one object on standard output; text for people goes to standard error.\n"
        "[Exit status](exit-status.md) lists what a command returns.",
        table(
            ("command", "what it does"),
            [(f"[`launcher {name}`](#launcher-{name})", text) for name, text in COMMANDS.items()],
        ),
    ]
    for name in COMMANDS:
        parts += command(command_parser(name), 2)
    return page(*parts)


def command(parser: argparse.ArgumentParser, level: int) -> Iterator[str]:
    """Yield the parts of one command and of those below it."""
    yield f"{'#' * level} {parser.prog}"
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    positional = [action for action in parser._actions if not action.option_strings and action not in below]
    words = [parser.prog, *(["COMMAND"] if below else []), *map(argument, positional)]
    if any(action.option_strings and action.dest != "help" for action in parser._actions):
        words.append("[OPTION ...]")
    if parser.get_default("rest") is not None:
        words.append("[-- WORDS]")
    yield f"```\n{' '.join(words)}\n```"
    if parser.description:
        yield prose(parser.description)
    for group in parser._action_groups:
        rows = [
            (spelling(action), parser._get_formatter()._expand_help(action) if action.help else "")
            for action in group._group_actions
            if action.dest != "help" and action.help != argparse.SUPPRESS and action not in below
        ]
        if rows:
            title = {"positional arguments": "argument", "options": "option"}.get(group.title or "", f"{group.title}")
            yield table((title, "meaning"), rows)
    if parser.epilog:
        yield prose(parser.epilog)
    for action in below:
        for each in dict.fromkeys(action.choices.values()):
            yield from command(each, level + 1)


def argument(action: argparse.Action) -> str:
    """Return a positional argument as a usage line shows it."""
    name = action.metavar if isinstance(action.metavar, str) else action.dest
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} [{name} ...]"}.get(str(action.nargs), name)


def spelling(action: argparse.Action) -> str:
    """Return how an option or an argument is written."""
    if not action.option_strings:
        return f"`{argument(action)}`"
    value = ""
    if action.nargs != 0:
        choices = "|".join(map(str, action.choices)) if action.choices else None
        value = f" {action.metavar or choices or action.dest.upper()}"
    return ", ".join(f"`{name}{value if name.startswith('--') else ''}`" for name in action.option_strings)


# --- Models -----------------------------------------------------------------------------------------------------------


def field_docs(model: type[Model]) -> dict[str, str]:
    """Return the string below each field of a model."""
    return docs_below(ast.parse(textwrap.dedent(inspect.getsource(model))).body[0])


def docs_below(body: ast.AST) -> dict[str, str]:
    """Return the string directly below each annotated name of a class."""
    found: dict[str, str] = {}
    last: str | None = None
    for node in ast.iter_child_nodes(body):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last:
            found[last] = str(node.value.value)
        last = node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else None
    return found


def kind(annotation: Any) -> str:
    """Describe the type of a field in words and literals."""
    origin = get_origin(annotation)
    inner = [each for each in get_args(annotation) if each is not NoneType]
    if origin is Annotated:
        return kind(inner[0])
    if origin is Literal:
        return ", ".join(f'`"{each}"`' for each in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(kind(each) for each in inner))
    if origin is tuple:
        return f"list of {kind(inner[0])}"
    if origin is dict:
        return f"table of {kind(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return "table"
    return {str: "text", int: "integer", float: "number", bool: "`true` or `false`"}.get(annotation, str(annotation))


def default(field: structs.FieldInfo) -> str:
    """Return a field's default as TOML writes it; nothing where there is none."""
    value = default_of(field)
    if value is NODEFAULT:
        return "required"
    if value is None or value in ("", (), {}) or isinstance(value, Model | Path):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else repr(value).replace(chr(39), chr(34))}`"


def fields(model: type[Model]) -> list[structs.FieldInfo]:
    """Return the fields that are keys."""
    return [field for field in structs.fields(model) if field.name in model.model_fields]


def keys(model: type[Model], *, leave_out: tuple[str, ...] = (), prefix: str = "") -> str:
    """Return the table of a model's keys."""
    docs = field_docs(model)
    rows = []
    for field in fields(model):
        name = field.name
        if name not in leave_out:
            if name not in docs:
                raise SystemExit(f"{model.__name__}.{name} has no documentation below it")
            rows.append((f"`{prefix}{name}`", kind(field.type), default(field), docs[name]))
    return table(("key", "value", "default", "meaning"), rows)


def cluster_profile() -> str:
    """Return the page of a cluster profile's keys."""
    return page(
        "# Cluster profile keys",
        "A profile is a TOML file; its name is the file's name without `.toml`.\n"
        "[Describe a cluster](../how-to/cluster-profiles.md) shows how to write one.\n"
        "An unknown key is refused.",
        keys(Cluster, leave_out=("name", "expect", "rendezvous", "retry")),
        "`unset = [KEY, ...]` names keys of the extended profile that do not count: `nics_per_node`, `env.NCCL_IB_SL`.",
        "## [expect]",
        sentences(inspect.cleandoc(ExpectedPerformance.__doc__ or "")),
        keys(ExpectedPerformance, prefix="expect."),
        "## [rendezvous]",
        sentences(inspect.cleandoc(Rendezvous.__doc__ or "")),
        keys(Rendezvous, prefix="rendezvous."),
        "## [retry]",
        sentences(inspect.cleandoc(Retry.__doc__ or "")),
        keys(Retry, prefix="retry."),
        "## [ssh]",
        sentences(inspect.cleandoc(Ssh.__doc__ or "")),
        keys(Ssh, prefix="ssh."),
    )


def image_description() -> str:
    """Return the page of the keys of an image's description."""
    return page(
        "# Image description keys",
        "`launcher image build NAME` builds an image as `configs/images/NAME.toml` describes it, "
        "or `~/.config/launcher/images/NAME.toml`.\n"
        "[Images](../how-to/images.md) has an example.",
        keys(ImageSpec, leave_out=("directory",)),
    )


# --- Requests ---------------------------------------------------------------------------------------------------------


def options_of_requests() -> dict[str, tuple[str, str]]:
    """Return for each key of a request its option and that option's help."""
    found: dict[str, tuple[str, str]] = {}
    for parser in (command_parser("run"), command_parser("submit")):
        for action in parser._actions:
            key = arguments._NAMES.get(action.dest, action.dest)
            if key in Request.model_fields and action.help != argparse.SUPPRESS:
                found.setdefault(key, (spelling(action), parser._get_formatter()._expand_help(action)))
    return found


def request() -> str:
    """Return the page of a request's keys, which are those of a job file."""
    load.parse(Request, toml.loads(JOB_FILE), where="the example of a job file")
    docs, options = field_docs(Request), options_of_requests()
    rows = []
    for field in fields(Request):
        name = field.name
        option, text = options.get(name, ("", ""))
        if name.startswith("default_"):
            continue
        meaning = docs.get(name) or text
        rows.append((f"`{name}`", option, kind(field.type), default(field), counts_in(name), meaning))
    return page(
        "# Request and job file",
        "A request is everything that a user says about one run.\n"
        "Options of `launcher run`, `submit` and `plan` fill it, "
        "and so does a job file: a TOML file with the keys below, given in place of RECIPE.",
        f"```toml\n{JOB_FILE}```",
        f"An option wins over the file.\n"
        f"Lists that both give are joined, the command line's last and thus strongest: {names(load.JOINED)}.\n"
        "An assignment on the command line replaces the file's of the same key, and so does an option of sbatch.\n"
        "An unknown key is refused, with the nearest known one.\n"
        f"[Which value wins](defaults.md) has the whole order.",
        "An option counts where the table says so: in local runs, in an allocation (`launcher run` after salloc), "
        "in batch jobs, and for `launcher fetch`.\n"
        "Elsewhere it is refused with what to do instead; a key of a job file, which may be for several modes, "
        "gives a warning there.",
        table(("key", "option", "value", "default", "counts in", "meaning"), rows),
    )


def counts_in(key: str) -> str:
    """Return the modes in which a key of a request has an effect."""
    modes = ("local", "allocation", "batch", "fetch")
    found = [mode for mode in modes if effect_of(key).counts_in(mode)]
    return "all" if len(found) == len(modes) else ", ".join(found)


def names(words: tuple[str, ...]) -> str:
    """Return words as code, with commas."""
    return ", ".join(f"`{word}`" for word in words)


def profile_key(key: str) -> str:
    """Return the key of a cluster profile that states the same as a key of a request."""
    name = {"time": "time_limit"}.get(key, key)
    return f"`{name}`" if name in Cluster.model_fields else ""


def defaults() -> str:
    """Return the page of the order in which values win."""
    options = options_of_requests()
    rows = [(f"`{key}`", options[key][0], f"`LAUNCHER_{key.upper()}`", profile_key(key)) for key in load.DEFAULTS]
    return page(
        "# Which value wins",
        "The first that gives a value counts:",
        "1. the option on the command line;\n"
        "2. the variable `LAUNCHER_*`;\n"
        "3. `launcher.toml` in the current directory;\n"
        "4. `~/.config/launcher/config.toml` (`XDG_CONFIG_HOME` moves it);\n"
        "5. the job file;\n"
        "6. the cluster profile, where it has such a key;\n"
        "7. a default of the launcher's.",
        "Variables and the two configuration files may set only what belongs to a user or a directory:",
        table(("key", "option", "variable", "in a cluster profile"), rows),
        "Everything else belongs to one run: give it on the command line or in a [job file](request.md).\n"
        "`launcher plan` shows the origin of every value.",
    )


def exit_status() -> str:
    """Return the page of exit statuses and of the errors behind them."""
    rows = []
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, errors.LauncherError) and error is not errors.LauncherError:
            rows.append((f"`{name}`", str(error.exit_status), (error.__doc__ or "").split("\n\n")[0]))
    return page(
        "# Exit status",
        table(
            ("status", "meaning"),
            [
                ("0", "done"),
                ("1", "the run failed or stopped early, or a check found a fault"),
                ("2", "the request was wrong, nothing was started"),
                ("3", "the outside world failed: Slurm, disk, network, a program"),
                ("130", "Ctrl-C"),
            ],
        ),
        "With `--json` an error is an object on standard output: "
        "`error` with `kind`, `id`, `message`, `where` and `hint`, and `exit_status`.",
        table(("kind", "status", "meaning"), rows),
    )


# --- Run directory ----------------------------------------------------------------------------------------------------


def run_directory() -> str:
    """Return the page of a run directory's paths."""
    return page(
        "# The run directory",
        "The run directory is the only database; there is no daemon.\nAny process may be killed at any point.",
        "## A run: `<run root>/<name>/<run id>/`",
        paths_table(RunPaths(Path("RUN"))),
        "- `code/` holds entrypoint.py, launcher/job, launcher/contract, models/, and recipe/ with the user's files: "
        "all that is on sys.path in the job, so that later edits do not reach a queued run.\n"
        "  Its files are read-only: hard links to one copy of each in `<run root>/.code-<uid>`, where the file system "
        "has links.\n"
        "  A thousand runs of one project hold its files once, and each run stays whole when another is removed.\n"
        "  To change code, change the project and start a run; a copy that was changed all the same is not given to "
        "further runs.\n"
        "  A run whose files are not those that `code/sums.json` names, because somebody edited a copy in place, does "
        "not train: rank 0 says which file it is before the recipe is imported.\n"
        "  `--resume RUN --allow-change code` goes on with a change of `code/recipe/`.\n"
        "- Each line of `journal.jsonl` is fsync'd: the intent before a step, the result after it.\n"
        "- Secrets stand in `plan.json` by name only.\n"
        "- A new run directory is made under a temporary name and renamed.\n"
        "  Where its start is refused it is removed.\n"
        "- A resumed run keeps its `code/` and gets a new plan.\n"
        "  Plan and scripts of an earlier attempt are kept in that attempt's directory.",
        "## An attempt: `attempts/NNN/`",
        "An attempt is one execution of the run; `latest` links to the newest.",
        paths_table(AttemptPaths(Path("RUN"))),
        "[Records](records.md) has the content of each file, and "
        "[what a program gets and writes](program-contract.md) the rules for a program.",
    )


def paths_table(paths: RunPaths | AttemptPaths) -> str:
    """Return the table of all paths of a class; in names `NNNN` stands for a rank, `N` for another number."""
    rows = []
    for name, member in vars(type(paths)).items():
        if isinstance(member, property):
            path = getattr(paths, name)
        elif inspect.isfunction(member) and not name.startswith("_"):
            path = getattr(paths, name)(example_of(member))
        else:
            continue
        text = inspect.cleandoc(member.__doc__ or "").removeprefix("Return the path of ")
        if isinstance(path, Path) and path != paths.path:
            place = str(path.relative_to(paths.path))
            place = place.replace("0000000", "N" * 7).replace("0000", "NNNN").replace("-0", "-N")
            rows.append((place, text[0].upper() + text[1:]))
    return table(("path", "what it is"), [(f"`{place}`", text) for place, text in sorted(rows)])


def example_of(method: Any) -> Any:
    """Return an argument for a method of the classes of paths: a number, a checkpoint's directory or a name."""
    kinds = {kind for argument, kind in method.__annotations__.items() if argument != "return"}
    return 0 if int in kinds else Path("RUN/checkpoints/iter_NNNNNNN") if Path in kinds else "NNN"


# --- Records ----------------------------------------------------------------------------------------------------------


def messages_page() -> str:
    """Return the page of all messages of errors, by the id that each is printed with."""
    found = messages.messages()
    parts = [
        "# Messages",
        "Each error is printed with the id of the function that made it; `launcher help ID` prints the rows of one.\n"
        "`...` stands for what varies.\n"
        "[Troubleshooting](../how-to/troubleshooting.md) goes by symptom, [exit status](exit-status.md) by the kind of"
        " error.",
    ]
    for package, group in itertools.groupby(found, key=lambda one: one.id.partition(".")[0]):
        rows = [(f"`{one.id}`", f"`{one.kind}`", verbatim(one.text), verbatim(one.hint)) for one in group]
        parts += [f"## {package.lstrip('_')}", table(("id", "kind", "message", "what to do"), rows)]
    return page(*parts)


def verbatim(text: str) -> str:
    """Return a text as a cell of a table in which nothing is Markdown."""
    return "`" + text.replace("`", "'").replace("|", "\\|").strip() + "`" if text.strip() else ""


def failures_page() -> str:
    """Return the page of the classes of failures, and of the rules of each."""
    classes = [(f"[{name}](#{anchor(name)})", info.meaning) for name, info in failures.CLASSES.items()]
    parts = [
        "# Failures",
        "A failed attempt has a class (`failure` of `result.json`) and evidence: the line that decided, what it names,"
        " and what to do.\n"
        "`launcher status`, `--follow` and the end of `launcher run` show them.\n"
        "The ranks' errors and logs, `srun.log` and `sbatch.log` are read; of all lines that match a rule the most"
        " specific one decides, and of equally specific ones the first.\n"
        "A rank that lost its peers, or that Slurm ended, is never the cause while another line names one.",
        table(("class", "meaning"), classes),
    ]
    for name, info in failures.CLASSES.items():
        own = [each for each in failures.RULES if each.failure == name]
        rows = [
            (each.name, each.level.name.lower(), f"`{shown_pattern(each.pattern)}`", each.todo or "") for each in own
        ]
        numbers = [f"{number} ({words})" for number, (failure, words) in failures.XIDS.items() if failure == name]
        states = [f"`{state}`" for state, (failure, _) in failures.STATES.items() if failure == name]
        parts += [f"## {name}", info.meaning, f"What to do: {info.todo}."]
        parts += [table(("rule", "level", "lines", "what to do instead"), rows)] if rows else []
        parts += [f"NVIDIA's Xid numbers: {', '.join(numbers)}."] if numbers else []
        parts += [f"Slurm's states: {', '.join(states)}."] if states else []
    levels = [(level.name.lower(), text) for level, text in level_docs().items()]
    return page(*parts, "## Levels", table(("level", "meaning"), levels))


def shown_pattern(pattern: str) -> str:
    """Return a pattern with its named groups as words, such as RANK."""
    return re.sub(r"\(\?P<([a-z]+)\d?>[^()]*\)", lambda match: match[1].upper(), pattern)


def level_docs() -> dict[failures.Level, str]:
    """Return the documentation of each level, from the string below its value."""
    body = next(
        node.body
        for node in ast.parse(inspect.getsource(failures)).body
        if isinstance(node, ast.ClassDef) and node.name == "Level"
    )
    found: dict[failures.Level, str] = {}
    for value, text in itertools.pairwise(body):
        if isinstance(value, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            name = value.targets[0]
            assert isinstance(name, ast.Name)  # noqa: S101 - what an enumeration consists of
            found[failures.Level[name.id]] = str(text.value.value)
    return found


def anchor(heading: str) -> str:
    """Return the anchor that Markdown gives a heading."""
    return re.sub(r"[^a-z0-9-]", "", heading.lower().replace(" ", "-"))


def records_page() -> str:
    """Return the page of the types of all files that pass between the launcher and its jobs."""
    head, _, files = (records.__doc__ or "").partition("\n\n")
    listing, _, rest = files.partition("\n\n")
    docs, bases = record_docs()
    rows: list[tuple[str, ...]] = []
    for line in listing.split("\n"):
        place, content = line.strip().split("  ", 1)
        record, _, note = content.strip().partition(",")
        rows.append((f"`{place_of(place)}`", f"[{record}](#{record.lower()})", note))
    parts = ["# Records", sentences(head), table(("file", "record", ""), rows), sentences(rest)]
    for name, value in (each for module in record_modules() for each in defined_in(module)):
        if name.startswith("_") or not (is_record(value) or value is StartRecord):
            continue
        own = {key: text for each in lineage(name, bases) for key, text in docs.get(each, {}).items()}
        required = getattr(value, "__required_keys__", frozenset(value.__annotations__))
        rows = [
            (f"`{key}`" if key in required else f"`{key}`, not always", json_kind(hint), own.get(key, ""))
            for key, hint in get_type_hints(value).items()
        ]
        parts += [
            f"## {name}",
            sentences(docs[name].get("", "") or value.__doc__ or ""),
            table(("key", "value", "meaning"), rows),
        ]
    return page(*(part for part in parts if part))


def place_of(text: str) -> str:
    """Return the path of `RunPaths.plan_file` and its like in a run directory; another text as it is."""
    name, _, member = text.partition(".")
    if name not in ("RunPaths", "AttemptPaths"):
        return f"attempts/NNN/{text}"
    paths = RunPaths(Path("RUN")) if name == "RunPaths" else RunPaths(Path("RUN")).attempt_paths("NNN")
    found = getattr(paths, member)
    return (
        str((found(example_of(found)) if callable(found) else found).relative_to("RUN"))
        .replace("0000000", "NNNNNNN")
        .replace("0000", "NNNN")
    )


def record_modules() -> list[ModuleType]:
    """Return the modules of the package of records."""
    names = sorted(module.name for module in pkgutil.iter_modules(records.__path__))
    return [importlib.import_module(f"{records.__name__}.{name}") for name in names]


def defined_in(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield the names of a module that it does not import from others of the package, and their values."""
    for name, value in vars(module).items():
        if getattr(value, "__module__", module.__name__) == module.__name__:
            yield name, value


def is_record(value: Any) -> bool:
    """Say whether a value is a TypedDict of the package of records."""
    return is_typeddict(value) and value.__module__.startswith(f"{records.__name__}.")


def record_docs() -> tuple[dict[str, dict[str, str]], dict[str, list[str]]]:
    """Return the strings of each class, its own under "", the others by key; and the names of its bases."""
    docs: dict[str, dict[str, str]] = {}
    bases: dict[str, list[str]] = {}
    for module in record_modules():
        body = ast.parse(inspect.getsource(module)).body
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.ClassDef):
                docs[node.name] = {"": " ".join((ast.get_docstring(node) or "").split()), **docs_below(node)}
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                below = after.value if isinstance(after, ast.Expr) else None
                docs[node.targets[0].id] = {"": str(below.value) if isinstance(below, ast.Constant) else ""}
    return docs, bases


def lineage(name: str, bases: dict[str, list[str]]) -> list[str]:
    """Return the names of a class's bases, the farthest first, and its own."""
    return [*(each for base in bases.get(name, []) for each in lineage(base, bases)), name]


def json_kind(hint: Any) -> str:
    """Describe a type as JSON has it."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return "anything"
    if hint is NoneType:
        return "null"
    if origin is Literal:
        words = [word for each in inner for word in (get_args(each) or [each])]
        return ", ".join(f"`{json.dumps(word)}`" for word in words)
    if origin in (Union, UnionType):
        return " or ".join(json_kind(each) for each in inner)
    if origin is list:
        return f"list of {json_kind(inner[0])}"
    if origin is dict:
        return f"object of {json_kind(inner[1])}"
    if is_record(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return {str: "text", int: "integer", float: "number", bool: "`true` or `false`"}[hint]


def page(*parts: str) -> str:
    """Return a page of these parts."""
    return NOTE + "\n" + "\n\n".join(parts) + "\n"


def main() -> int:
    """Write the pages; with --check only compare, and return 1 where one differs."""
    stale = [name for name, text in pages().items() if not same(DIRECTORY / name, text)]
    if "--check" in sys.argv:
        print(*(f"docs/reference/{name} differs from the code: make reference" for name in stale), sep="\n")
        return int(bool(stale))
    for name in stale:
        (DIRECTORY / name).write_text(pages()[name])
        print(f"written: docs/reference/{name}")
    return 0


def same(path: Path, text: str) -> bool:
    """Say whether a file has this text."""
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
