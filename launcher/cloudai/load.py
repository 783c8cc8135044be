"""From CloudAI's files to checked values: every mistake with its file, its line and what to write instead."""

import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from launcher._util.errors import ConfigError
from launcher.cloudai.models import MEGATRON_BRIDGE, GenericTest, Scenario, System, Test, TestEntry
from launcher.cloudai.toml_lines import Part, TomlFile
from launcher.config.load import deep_merge
from launcher.contract.values import nearest

Kind = Literal["system", "scenario", "test", "hook"]

_SHOWN = 8
"""Mistakes of one file that a message names."""


@dataclass(frozen=True)
class LoadedTest:
    """A test, and the file that defines it."""

    test: GenericTest
    file: TomlFile


@dataclass(frozen=True)
class ScenarioTest:
    """One of a scenario's tests: its entry, and the test with what the entry changes."""

    entry: TestEntry
    test: Test
    where: str
    """`file:line` of the entry."""
    locate: Callable[[Sequence[Part]], str] = field(repr=False)
    """Return `file:line` of a key of the test: in the entry where that states it, else in the test's own file."""
    written: Mapping[str, Any] = field(repr=False, default_factory=dict)
    """What the files state, without defaults."""

    def wrote(self, *key: str) -> bool:
        """Return whether a file states this key."""
        values: Any = self.written
        for part in key:
            if not isinstance(values, Mapping) or part not in values:
                return False
            values = values[part]
        return True

    @property
    def by_name(self) -> bool:
        """Return whether the entry names a test. All of that test's fields then count as stated, as in CloudAI."""
        return self.entry.test_name is not None


@dataclass(frozen=True)
class LoadedScenario:
    """A scenario with its tests."""

    model: Scenario
    tests: tuple[ScenarioTest, ...]
    file: TomlFile
    pre_test: "HookScenario | None" = None
    post_test: "HookScenario | None" = None


@dataclass(frozen=True)
class HookScenario:
    """A scenario that others name as pre_test or post_test; its tests may be of any template."""

    model: Scenario
    tests: tuple[tuple[TestEntry, GenericTest], ...]
    file: TomlFile


@dataclass(frozen=True)
class LoadedFiles:
    """What a command works on: one system, one scenario."""

    system: System
    scenario: LoadedScenario


def load_files(
    system: Path, scenario: Path, tests_directory: Path | None = None, hook_directory: Path | None = None
) -> LoadedFiles:
    """Return the system and the scenario of a command line. Raises ConfigError."""
    loaded = load_system(system)
    tests = load_tests(tests_directory) if tests_directory else {}
    hooks = load_hooks(hook_directory) if hook_directory else {}
    return LoadedFiles(loaded, load_scenario(scenario, tests, hooks))


def load_system(path: Path) -> System:
    """Return a system's file. Raises ConfigError, also for a scheduler other than Slurm."""
    file = TomlFile(path)
    scheduler = file.values.get("scheduler")
    if scheduler is None:
        raise ConfigError("scheduler: is missing", where=str(path), hint='scheduler = "slurm"')
    if scheduler != "slurm":
        raise ConfigError(
            f"scheduler: {scheduler!r} is not supported; this launcher runs jobs on Slurm",
            where=file.where(("scheduler",)),
        )
    return _validated(System, file.values, file.where)


def load_tests(directory: Path) -> dict[str, LoadedTest]:
    """Return the tests of a directory's *.toml by their names. Raises ConfigError, also for a name that two have."""
    found = dict[str, LoadedTest]()
    for path in sorted(directory.glob("*.toml")):
        loaded = load_test(path)
        name = loaded.test.name
        if name in found:
            raise ConfigError(
                f"name: the test {name!r} is defined here and in {found[name].file.where(('name',))}",
                where=loaded.file.where(("name",)),
                hint="Give --tests-dir a directory in which each name stands once.",
            )
        found[name] = loaded
    return found


def load_test(path: Path) -> LoadedTest:
    """Return the test of one file. Raises ConfigError."""
    file = TomlFile(path)
    return LoadedTest(_test(file.values, file.where), file)


def load_scenario(
    path: Path, tests: Mapping[str, LoadedTest], hooks: Mapping[str, HookScenario] | None = None
) -> LoadedScenario:
    """Return a scenario, its tests merged with those that they name. Raises ConfigError."""
    file = TomlFile(path)
    model = _validated(Scenario, file.values, file.where)
    return LoadedScenario(
        model,
        tuple(_scenario_test(entry, number, file, tests) for number, entry in enumerate(model.tests)),
        file,
        _hook(model.pre_test, "pre_test", file, hooks or {}),
        _hook(model.post_test, "post_test", file, hooks or {}),
    )


def load_hooks(directory: Path) -> dict[str, HookScenario]:
    """Return the hooks of a directory (scenarios, with their tests below test/) by their names. Raises ConfigError."""
    tests = load_tests(directory / "test") if (directory / "test").is_dir() else {}
    found = dict[str, HookScenario]()
    for path in sorted(directory.glob("*.toml")):
        file = TomlFile(path)
        model = _validated(Scenario, file.values, file.where)
        of_hook = tuple((entry, _merged(entry, number, file, tests)[0]) for number, entry in enumerate(model.tests))
        found[model.name] = HookScenario(model, of_hook, file)
    return found


def kind_of(path: Path) -> Kind:
    """Return what a TOML file describes. Raises ConfigError where it cannot be read."""
    values = TomlFile(path).values
    if "scheduler" in values:
        return "system"
    if "Tests" in values:
        return "hook" if path.parent.name == "hook" else "scenario"
    if "test_template_name" in values:
        return "test"
    raise ConfigError(
        "is neither a system (scheduler), nor a test (test_template_name), nor a scenario ([[Tests]])", where=str(path)
    )


@dataclass(frozen=True)
class Verified:
    """What was found of one file."""

    path: Path
    kind: Kind | None
    error: ConfigError | None


def verify(root: Path, tests_directory: Path | None = None) -> Iterator[Verified]:
    """Check a file, or every *.toml below a directory; tests that scenarios name are taken from `tests_directory`.

    Without it they are those that were found, except for names that several files define. Raises ConfigError for a
    directory without TOML files.
    """
    paths = sorted(root.rglob("*.toml")) if root.is_dir() else [root]
    if not paths:
        raise ConfigError("has no TOML files", where=str(root))
    kinds = [(path, *_kind_or_error(path)) for path in paths]
    tests, ambiguous = _known_tests(kinds, tests_directory)
    for path, kind, error in kinds:
        if error is None and kind is not None:
            try:
                _verify_one(path, kind, tests, ambiguous)
            except ConfigError as problem:
                error = problem
        yield Verified(path, kind, error)


def _kind_or_error(path: Path) -> tuple[Kind | None, ConfigError | None]:
    try:
        return kind_of(path), None
    except ConfigError as error:
        return None, error


def _known_tests(
    kinds: Sequence[tuple[Path, Kind | None, ConfigError | None]], directory: Path | None
) -> tuple[dict[str, LoadedTest], dict[str, list[Path]]]:
    """Return the tests by name, and the files of names that several define."""
    if directory is not None:
        return load_tests(directory), {}
    found, files = dict[str, LoadedTest](), dict[str, list[Path]]()
    for path, kind, _ in kinds:
        if kind == "test":
            try:
                loaded = load_test(path)
            except ConfigError:
                continue  # the caller reads every file and reports what is wrong with this one
            found[loaded.test.name] = loaded
            files.setdefault(loaded.test.name, []).append(path)
    return found, {name: paths for name, paths in files.items() if len(paths) > 1}


def _verify_one(
    path: Path, kind: Kind, tests: Mapping[str, LoadedTest], ambiguous: Mapping[str, Sequence[Path]]
) -> None:
    if kind == "system":
        load_system(path)
    elif kind == "test":
        load_test(path)
    elif kind == "hook":
        load_hooks(path.parent)
    else:
        file = TomlFile(path)
        model = _validated(Scenario, file.values, file.where)
        for number, entry in enumerate(model.tests):
            if entry.test_name is not None and entry.test_name in ambiguous:
                raise ConfigError(
                    f"test_name: {entry.test_name!r} is defined by {len(ambiguous[entry.test_name])} files",
                    where=file.where(("Tests", number, "test_name")),
                    hint="Say with --tests-dir which directory is meant.",
                )
        load_scenario(path, tests, _hooks_here(model))


def _hooks_here(model: Scenario) -> dict[str, HookScenario]:
    """Return the hooks of `conf/hook` of this directory, where a scenario names one."""
    directory = Path("conf/hook")
    wanted = model.pre_test or model.post_test
    return load_hooks(directory) if wanted and directory.is_dir() else {}


def _hook(name: str | None, key: str, file: TomlFile, hooks: Mapping[str, HookScenario]) -> HookScenario | None:
    if name is None:
        return None
    if name not in hooks:
        raise ConfigError(
            f"{key}: there is no hook {name!r}{_suggestion(name, hooks)}",
            where=file.where((key,)),
            hint=f"Known hooks: {', '.join(sorted(hooks)) or 'none'}; --hook-dir names their directory.",
        )
    return hooks[name]


def _scenario_test(entry: TestEntry, number: int, file: TomlFile, tests: Mapping[str, LoadedTest]) -> ScenarioTest:
    test, locate = _merged(entry, number, file, tests)
    where = file.where(("Tests", number))
    if not isinstance(test, Test):
        raise ConfigError(
            f"test_template_name: {test.test_template_name!r} is a template of CloudAI that this launcher does not run",
            where=where,
            hint=f"It runs {MEGATRON_BRIDGE}.",
        )
    base = tests[entry.test_name].file.values if entry.test_name else {}
    return ScenarioTest(entry, test, where, locate, deep_merge(base, entry.of_the_test()))


def _merged(
    entry: TestEntry, number: int, file: TomlFile, tests: Mapping[str, LoadedTest]
) -> tuple[GenericTest, Callable[[Sequence[Part]], str]]:
    """Return the test that an entry names with what the entry changes, and where each key stands."""
    above: tuple[Part, ...] = ("Tests", number)
    own = entry.of_the_test()
    if entry.test_name is None:
        locate = _located(file, above, own, None)
        return _test(own, locate), locate
    if entry.test_name not in tests:
        raise ConfigError(
            f"test_name: there is no test {entry.test_name!r}{_suggestion(entry.test_name, tests)}",
            where=file.where((*above, "test_name")),
            hint=f"Known tests: {', '.join(sorted(tests)) or 'none'}; --tests-dir names their directory.",
        )
    base = tests[entry.test_name]
    locate = _located(file, above, own, base.file)
    return _test(deep_merge(base.test.model_dump(by_alias=True), own), locate), locate


def _located(
    file: TomlFile, above: tuple[Part, ...], own: Mapping[str, Any], base: TomlFile | None
) -> Callable[[Sequence[Part]], str]:
    def locate(key: Sequence[Part]) -> str:
        return file.where((*above, *key)) if base is None or _has(own, key) else base.where(key)

    return locate


def _has(values: Any, key: Sequence[Part]) -> bool:
    for part in key:
        if isinstance(values, Mapping) and part in values:
            values = values[part]
        else:
            return isinstance(values, list)
    return True


def _test(values: Mapping[str, Any], locate: Callable[[Sequence[Part]], str]) -> GenericTest:
    model = Test if values.get("test_template_name") == MEGATRON_BRIDGE else GenericTest
    return _validated(model, values, locate)


Model = TypeVar("Model", bound=BaseModel)


def _validated(model: type[Model], values: Mapping[str, Any], locate: Callable[[Sequence[Part]], str]) -> Model:
    """Return the values as a model. Raises ConfigError with the line of each mistake."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise _explained(model, values, error, locate) from None


def _explained(
    model: type[BaseModel],
    values: Mapping[str, Any],
    error: ValidationError,
    locate: Callable[[Sequence[Part]], str],
) -> ConfigError:
    sentences, places = list[str](), list[str]()
    for problem in error.errors(include_url=False, include_input=False):
        key = _key_of(problem["loc"], values)
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = f"unknown key{_suggestion(str(key[-1]), _fields(model, key[:-1]))}"
        elif problem["type"] == "missing":
            text = "is missing"
        place = locate(key)
        sentence = f"{'.'.join(map(str, key))}: {text}" if key else text
        if sentence not in sentences:
            places.append(place)
            sentences.append(sentence if place == places[0] else f"{_line(place, places[0])}: {sentence}")
    if len(sentences) > _SHOWN:
        sentences[_SHOWN:] = [f"and {len(sentences) - _SHOWN} more"]
    return ConfigError("; ".join(sentences), where=places[0])


def _line(place: str, first: str) -> str:
    """Return `line N` for another place of the same file, else the whole place."""
    path, _, line = place.rpartition(":")
    return f"line {line}" if path == first.rpartition(":")[0] and line.isdigit() else place


def _key_of(location: Sequence[int | str], values: Any) -> tuple[Part, ...]:
    """Return a problem's key without what pydantic adds for unions and validators: parts that the values lack.

    The last part of a missing or unknown key is kept.
    """
    key: tuple[Part, ...] = ()
    for position, part in enumerate(location):
        if part in _parts_of(values):
            values, key = values[part], (*key, part)
        elif position == len(location) - 1 and isinstance(values, Mapping) and str(part).isidentifier():
            key = (*key, part)
    return key


def _parts_of(values: Any) -> Any:
    """Return the keys of a table, or the positions of a list."""
    if isinstance(values, Mapping):
        return values
    return range(len(values)) if isinstance(values, list) else ()


def _fields(model: type[BaseModel], key: Sequence[Part]) -> tuple[str, ...]:
    """Return the names of the fields below a key."""
    for part in key:
        by_alias = {one.alias or name: one for name, one in model.model_fields.items()}
        if isinstance(part, str) and part in by_alias:
            inner = next(_models(by_alias[part].annotation), None)
            if inner is None:
                return ()
            model = inner
    return tuple(one.alias or name for name, one in model.model_fields.items())


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def _suggestion(name: str, known: "typing.Iterable[str]") -> str:
    near = nearest(name, known, count=1)
    return f"; did you mean {near[0]}?" if near else ""
