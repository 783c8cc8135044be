"""Builds of a Dockerfile with an engine: arguments, progress, errors."""

import os
import platform
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher._util.errors import CommandError, ImageError
from launcher._util.line_splitter import LineSplitter
from launcher._util.shell import Shell
from launcher.contract.events import ProgressListener
from launcher.contract.variables import is_secret
from launcher.images.build import containers
from launcher.images.build.engines import Engine
from launcher.images.build.registry import engine_architecture

_BUILDAH_STEP = re.compile(r"^(?:\[(\d+)/(\d+)\] )?STEP (\d+)/(\d+): (.*)")
_BUILDKIT_STEP = re.compile(r"^#\d+ \[(?:(\S+) )?(\d+)/(\d+)\] (.*)")
_LEGACY_STEP = re.compile(r"^Step (\d+)/(\d+) : (.*)")
_BUILDKIT_LINE = re.compile(r"^#\d+ (?:\d+\.\d+ )?")
_WRONG_FILE = re.compile(
    r"target stage .* could not be found|The target .* was not found|failed to reach build target"
    r"|dockerfile parse error|unknown instruction|failed to parse|Dockerfile.* empty|no FROM statement",
    re.IGNORECASE,
)
_RUNTIME = re.compile(r"cgroup|OCI runtime|crun:|runc:|unshare|newuidmap", re.IGNORECASE)
_KEPT_LINES = 25


@dataclass(frozen=True)
class DockerBuild:
    """A build of a Dockerfile; paths are absolute."""

    dockerfile: Path
    context: Path
    target: str | None = None
    build_args: tuple[tuple[str, str], ...] = ()
    architecture: str | None = None
    """As `uname -m` prints it; None is this machine's."""
    secrets: tuple[tuple[str, Path], ...] = ()
    """Files that RUN --mount=type=secret,id=... may read: name and path. They leave no trace in the image."""

    @property
    def platform(self) -> str | None:
        """Return the platform as engines write it, or None for this machine's own."""
        if self.architecture is None or self.architecture == platform.machine():
            return None
        return f"linux/{engine_architecture(self.architecture)}"


def check(spec: DockerBuild) -> None:
    """Refuse files that do not exist, and secrets among the build arguments. Raises ImageError."""
    if not spec.dockerfile.is_file():
        problem = "is a directory" if spec.dockerfile.is_dir() else "does not exist"
        raise ImageError(f"the Dockerfile {problem}", where=str(spec.dockerfile), hint="Name the file itself (--file).")
    if not spec.context.is_dir():
        problem = "is not a directory" if spec.context.exists() else "does not exist"
        raise ImageError(
            f"the build's context {problem}", where=str(spec.context), hint="Name a directory (--context)."
        )
    for name, _ in spec.build_args:
        if is_secret(name):
            raise ImageError(
                f"the build argument {name} looks like a secret, and build arguments stay in the image's history",
                where=f"--build-arg {name}",
                hint=f"Let the Dockerfile read it as a build secret, `RUN --mount=type=secret,id={name} ...`, and name "
                f"the file: --secret {name}=PATH.",
            )
    for name, path in spec.secrets:
        if not path.is_file():
            raise ImageError(f"the file of the build secret {name} is missing", where=str(path))


def build(engine: Engine, spec: DockerBuild, workspace: Path, shell: Shell, report: ProgressListener) -> str:
    """Build and return the image's ID; it gets no name in the engine.

    Raises ImageError if the Dockerfile or the target is wrong, CommandError for a build that failed, both with the
    engine's messages.
    """
    report.stage(f"building {spec.dockerfile.name} with {engine.name} {engine.version}")
    identity = workspace / "image.id"
    last: deque[str] = deque(maxlen=_KEPT_LINES)

    def line(text: str) -> None:
        last.append(text)
        if (stage := stage_of(text)) is not None:
            report.stage(stage)
        else:
            report.line(_BUILDKIT_LINE.sub("", text))

    lines = LineSplitter(line)
    with containers.marked_build(engine, shell) as marks:
        argv = engine.argv("build", *marks, *_words(engine, spec, identity))
        result = shell.stream(argv, lines, check=False, env=_environment())
    lines.end()
    if result.status != 0:
        raise _failed(engine, spec, result.status, last)
    try:
        return identity.read_text().strip()
    except OSError:
        raise CommandError(f"{engine.name} succeeded but wrote no image ID", hint=_NO_ID_HINT) from None


_NO_ID_HINT = "A docker builder that keeps its images elsewhere does that: `docker buildx use default`."


def _environment() -> dict[str, str]:
    # By variable, because old docker clients refuse the option --progress.
    return {**os.environ, "BUILDKIT_PROGRESS": "plain"}


def _words(engine: Engine, spec: DockerBuild, identity: Path) -> list[str]:
    words = ["--iidfile", str(identity), "--file", str(spec.dockerfile)]
    if engine.name == "buildah":
        words.append("--layers")  # keep what can be used again, as the other two do
    if spec.target:
        words += ["--target", spec.target]
    if spec.platform:
        words += ["--platform", spec.platform]
    for name, value in spec.build_args:
        words += ["--build-arg", f"{name}={value}"]
    for name, path in spec.secrets:
        words += ["--secret", f"id={name},src={path}"]
    return [*words, str(spec.context)]


def stage_of(line: str) -> str | None:
    """Return the step that a line of an engine's output begins: `step 3/5 of stage base: RUN ...`; None for others."""
    if found := _BUILDAH_STEP.match(line):
        stage, stages, step, steps, what = found.groups()
        place = f" of stage {stage}/{stages}" if stages not in (None, "1") else ""
    elif found := _BUILDKIT_STEP.match(line):
        name, step, steps, what = found.groups()
        place = f" of stage {name}" if name else ""
    elif found := _LEGACY_STEP.match(line):
        (step, steps, what), place = found.groups(), ""
    else:
        return None
    what = " ".join(what.split())
    return f"step {step}/{steps}{place}: {what if len(what) <= 70 else what[:67] + '...'}"


def _failed(engine: Engine, spec: DockerBuild, status: int, last: Sequence[str]) -> ImageError | CommandError:
    words = "\n".join(f"  {line}" for line in last) or "  (no output)"
    message = f"{engine.name} failed (status {status}); the end of its output:\n{words}"
    place = str(spec.dockerfile)
    if _WRONG_FILE.search(words):
        hint = (
            f"The stages of a Dockerfile are its lines `FROM ... AS NAME`; the target is {spec.target}."
            if spec.target
            else None
        )
        return ImageError(message, where=place, hint=hint)
    hint = None
    if engine.name != "docker" and _RUNTIME.search(words):
        hint = (
            "If containers cannot be started here, BUILDAH_ISOLATION=chroot in the environment often lets builds work."
        )
    return CommandError(message, where=place, hint=hint)
