"""The files that a run needs in its `code/` directory, with their sources."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from launcher._util.errors import RecipeError
from launcher._util.resources import resource
from launcher._util.user_paths import is_file, user_path
from launcher.contract.files import read_text
from launcher.contract.paths import ENTRYPOINT, MODELS, RECIPE
from launcher.contract.variables import secret_in_code
from launcher.discovery.shipped_code import ShippedCode

_SCANNED_BYTES = 4 << 20


def code_files(shipped: ShippedCode, entrypoint: str | None, directory: Path) -> tuple[tuple[str, str], ...]:
    """Return sorted pairs of a path below code/ and the absolute path of its source.

    code/ holds the entrypoint, the half of the launcher that runs in the job, the architectures of configs/models, and
    the user's own files below recipe/. Raises RecipeError for a missing entrypoint, and for a secret in a file.
    """
    own = {f"{RECIPE}/{target}": source for target, source in shipped.files}
    program = dict(_program(entrypoint, directory))
    for source in (*own.values(), *([program[ENTRYPOINT]] if entrypoint else [])):
        refuse_secrets(Path(source))
    return tuple(sorted({**program, **own}.items()))


def refuse_secrets(source: Path) -> None:
    """Raise RecipeError for a file that contains a secret by value: each run keeps a copy."""
    try:
        found = secret_in_code(read_text(source, limit=_SCANNED_BYTES, errors="replace"))
    except OSError:  # too large for a program, or the run's directory cannot have a copy, which is said then
        return
    if found is not None:
        what, line = found
        name = what.rpartition(" ")[2].upper() if what.startswith("a value of ") else "NAME"
        raise RecipeError(
            f"the file contains {what}, and each run keeps a copy of the file",
            where=f"{source}:{line}",
            hint=f'Read it from the environment, os.environ["{name}"], and pass it on by name: --env {name}.',
        )


def _program(entrypoint: str | None, directory: Path) -> Iterator[tuple[str, str]]:
    main = resource("entrypoint.py")
    if entrypoint:
        main = user_path(entrypoint, directory, where="--entrypoint", error=RecipeError).resolve()
    if not is_file(main):
        raise RecipeError(f"there is no program {entrypoint!r}", where="--entrypoint")
    yield ENTRYPOINT, str(main)
    package = Path(__file__).resolve().parent.parent
    beginning = len(f"{package}/")
    yield "launcher/__init__.py", str(package / "__init__.py")
    for part in ("contract", "job"):
        # Hundreds of files: Path.relative_to would take a twentieth of a plan's time.
        for file in map(str, (package / part).rglob("*.py")):
            yield f"launcher/{file[beginning:]}", file
    for path in sorted(resource("configs/models").glob("*.json")):
        yield f"{MODELS}/{path.name}", str(path)


def code_digest(files: Iterable[tuple[str, str]], *, own_entrypoint: bool) -> str:
    """Return a digest of the user's own files among those of code/: the recipe's, and an entrypoint of the user's own.

    What belongs to the launcher is left out: a resumed run keeps the copy of its first attempt. Raises OSError.
    """
    total = hashlib.sha256()
    for target, source in sorted(files):
        if target.startswith(f"{RECIPE}/") or (own_entrypoint and target == ENTRYPOINT):
            content = hashlib.sha256(Path(source).read_bytes()).hexdigest()
            total.update(f"{target} {content}\n".encode())
    return total.hexdigest()[:16]
