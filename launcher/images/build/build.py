"""Builds: from a Dockerfile to an image in the store."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from launcher._util.shell import Shell
from launcher.contract.events import ProgressListener
from launcher.contract.variables import is_secret
from launcher.images.build import containers, dockerfile, engines, pack, pipeline
from launcher.images.build.dockerfile import DockerBuild
from launcher.images.build.result import ImageOutcome
from launcher.images.manifest import ImageSource
from launcher.images.reference import parse_reference
from launcher.images.store.building import Building, start_building
from launcher.images.store.store import Store, StoredImage


@dataclass(frozen=True)
class BuildRequest:
    """A build to make; it can be pickled and sent to another machine that sees the same files."""

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


def build(request: BuildRequest, store: Store, shell: Shell, report: ProgressListener) -> ImageOutcome:
    """Build and put the image into the store; if another process builds the same meanwhile, take its image.

    The engine decides what has to be built again: it keeps layers, and an image with the ID of one in the store is not
    packed again. Raises ImageError for a wrong request, CommandError
    and DiskError if the build fails.
    """
    begin = time.monotonic()
    spec = DockerBuild(
        request.dockerfile.resolve(),
        request.context.resolve(),
        request.target,
        tuple(sorted(request.build_args)),
        request.architecture,
        tuple((name, path.resolve()) for name, path in request.secrets),
    )
    dockerfile.check(spec)
    compression = pack.parse_compression(request.compression)
    name = store_name(request.name)
    engine = engines.find_engine(shell, request.engine)
    containers.remove_abandoned(engine, shell)
    with start_building(
        store, _key(spec, compression, name), on_wait=pipeline.report_waiting(report, request.name)
    ) as building:
        if building.finished is not None:
            return ImageOutcome(building.finished, True, time.monotonic() - begin)
        entry, reused = _build(request, spec, engine, compression, name, building, shell, report)
    # Containers that a killed build started may have gone on for a few seconds, beside this one.
    containers.remove_abandoned(engine, shell)
    return ImageOutcome(entry, reused, time.monotonic() - begin)


def store_name(name: str) -> str:
    """Return the file name in the store for the name of an image that is made here. Raises ImageError."""
    return parse_reference(f"dockerd://{name}").file_name


def _build(
    request: BuildRequest,
    spec: DockerBuild,
    engine: engines.Engine,
    compression: pack.Compression,
    name: str,
    building: Building,
    shell: Shell,
    report: ProgressListener,
) -> tuple[StoredImage, bool]:
    """Return the image, and whether the store had it: what the engine has not changed is not packed again."""
    identity = dockerfile.build(engine, spec, building.workspace, shell, report)
    image = engines.inspect(engine, identity, shell)
    if image is None:
        raise engines.missing_image_error(engine, identity)
    wanted = pipeline.target_architecture(request.architecture)
    if (same := pipeline.reusable(building.store, "dockerfile", image.id, wanted, request.compression)) is not None:
        return pipeline.add_names(building, same, [name]), True
    file, tools = pipeline.pack_engine_image(
        engine, image, f"dockerfile://{spec.dockerfile.name}", building.workspace, compression, shell, report
    )
    source = ImageSource(
        kind="dockerfile",
        text=str(request.dockerfile),
        digest=image.id,
        dockerfile=str(spec.dockerfile),
        target=spec.target,
        build_args={key: None if is_secret(key) else value for key, value in spec.build_args},
        platform=spec.platform,
    )
    entry = pipeline.publish_image(building, file, source, tools, compression, wanted, [name], shell, report)
    return entry, False


def _key(spec: DockerBuild, compression: pack.Compression, name: str) -> str:
    parts = [str(spec.dockerfile), str(spec.context), spec.target, spec.build_args]
    return json.dumps(["build", *parts, pipeline.target_architecture(spec.architecture), str(compression), name])
