"""A scenario as this launcher's own files: a cluster profile, and a job file for each of its runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher._util.errors import ConfigError
from launcher.cloudai.cases import RunChoices
from launcher.cloudai.load import LoadedFiles
from launcher.cloudai.profile import toml_text
from launcher.cloudai.run import Checkouts, planned_cases
from launcher.contract import files


def convert(loaded: LoadedFiles, directory: Path, options: RunChoices) -> Iterator[Path]:
    """Write a scenario as job files and profiles into a new directory, and yield each file.

    A job is submitted with `launcher submit FILE`. Secrets are named, never written. Raises ConfigError, OSError.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError("is not empty", where=str(directory), hint="Name a new directory.")
    directory.mkdir(parents=True, exist_ok=True)
    seen = set[Path]()
    checkouts = Checkouts(loaded, install=False)
    for case, planned in planned_cases(loaded, directory, options, checkouts, loaded.scenario.tests):
        if planned is None or planned.mode == "exec":
            reason = "; ".join(case.refused) or "its release of Bridge is run by setup_experiment.py: --mode native"
            raise ConfigError(f"{case.name}: {reason}", where=case.scenario_test.where)
        profile = Path(str(planned.request.cluster))
        if profile not in seen:
            profile.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(profile, planned.profile.text)
            seen.add(profile)
            yield profile
        values: dict[str, Any] = planned.request.model_dump(exclude_defaults=True)
        values.pop("run_root", None)
        path = directory / f"{case.name.replace('/', '-')}.toml"
        notes = "".join(f"# {note}\n" for note in planned.notes)
        files.write_text(path, f"# From {loaded.scenario.file.path.name}, {case.name}.\n{notes}{toml_text(values)}")
        yield path
