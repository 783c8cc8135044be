"""From a Dockerfile to an image in the store."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from launcher._util.shell import Shell
from launcher.contract.variables import is_secret
from launcher.images.build import containers, dockerfile, engines, pack
from launcher.images.build import pipeline as making
from launcher.images.build.dockerfile import Recipe
from launcher.images.build.report import Report
from launcher.images.build.result import Made
from launcher.images.manifest import Source
from launcher.images.reference import parse_reference
from launcher.images.store.store import Building, Entry, Store


@dataclass(frozen=True)
class BuildRequest:
    """What to build; it can be pickled, and sent to another machine that sees the same files."""

    dockerfile: Path
    context: Path
    name: str
    """As engines name images: megatron-lm:latest becomes megatron-lm+latest.sqsh in the store."""

    target: str | None = None
    build_args: tuple[tuple[str, str], ...] = ()
    architecture: str | None = None
    """As `uname -m` prints it; None is this machine's."""

    engine: str | None = None
    """None is the first that works."""

    compression: str | None = None
    secrets: tuple[tuple[str, Path], ...] = ()
    """Build secrets: name and file."""


def build(request: BuildRequest, store: Store, shell: Shell, report: Report) -> Made:
    """Build and put the image into the store; if another process builds the same meanwhile, take what it made.

    Whether something has to be built again is the engine's to judge: it keeps layers. Raises ImageError for a wrong
    request, CommandError and DiskError where it went wrong.
    """
    begin = time.monotonic()
    recipe = Recipe(
        request.dockerfile.resolve(),
        request.context.resolve(),
        request.target,
        tuple(sorted(request.build_args)),
        request.architecture,
        tuple((name, path.resolve()) for name, path in request.secrets),
    )
    dockerfile.check(recipe)
    compression = pack.parse_compression(request.compression)
    name = store_name(request.name)
    engine = engines.find_engine(shell, request.engine)
    containers.remove_abandoned(engine, shell)
    with store.building(_key(recipe, compression, name), on_wait=making.waiting(report, request.name)) as building:
        if building.finished is not None:
            return Made(building.finished, True, time.monotonic() - begin)
        entry = _build(request, recipe, engine, compression, name, building, shell, report)
    # What a killed build started may have gone on for a few seconds, beside this one.
    containers.remove_abandoned(engine, shell)
    return Made(entry, False, time.monotonic() - begin)


def store_name(name: str) -> str:
    """The file name in the store for the name of an image that is made here. Raises ImageError."""
    return parse_reference(f"dockerd://{name}").file_name


def _build(
    request: BuildRequest,
    recipe: Recipe,
    engine: engines.Engine,
    compression: pack.Compression,
    name: str,
    building: Building,
    shell: Shell,
    report: Report,
) -> Entry:
    identity = dockerfile.build(engine, recipe, building.workspace, shell, report)
    image = engines.inspect(engine, identity, shell)
    if image is None:
        raise engines.lost(engine, identity)
    file, tools = making.pack_engine_image(
        engine, image, f"dockerfile://{recipe.dockerfile.name}", building.workspace, compression, shell, report
    )
    source = Source(
        kind="dockerfile",
        text=str(request.dockerfile),
        digest=image.id,
        dockerfile=str(recipe.dockerfile),
        target=recipe.target,
        build_args={key: None if is_secret(key) else value for key, value in recipe.build_args},
        platform=recipe.platform,
    )
    wanted = making.machine(request.architecture)
    return making.add(building, file, source, tools, compression, wanted, [name], shell, report)


def _key(recipe: Recipe, compression: pack.Compression, name: str) -> str:
    parts = [str(recipe.dockerfile), str(recipe.context), recipe.target, recipe.build_args]
    return json.dumps(["build", *parts, making.machine(recipe.architecture), str(compression), name])
