"""`launcher image build` and `launcher image import`: here, or with --on in a job on a compute node."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.cli.image_store import add_cluster, cluster_of
from launcher.cli.on_cluster import add_job
from launcher.cli.output import print_json, say
from launcher.cli.progress import TerminalReport
from launcher.contract.units import bytes_text

if TYPE_CHECKING:
    from launcher.config.cluster import Cluster
    from launcher.config.image import ImageSpec
    from launcher.images.build.build import BuildRequest
    from launcher.images.build.importing import ImportRequest
    from launcher.images.build.result import ImageOutcome

BUILD_HELP = """\
Build a Dockerfile with docker, podman or buildah, whichever works here, and put the image into the store.

  launcher image build                             the project's own image: configs/images/megatron.toml
  launcher image build -f Dockerfile --name my:1   a Dockerfile of yours; then `--image my:1`
  launcher image build --on gb200                  in a job on a compute node of that cluster
"""

IMPORT_HELP = """\
Import an image into the store, where `--image` finds it.

  launcher image import nvcr.io#nvidia/nemo:26.08       a registry (also nvcr.io/nvidia/nemo:26.08, docker://...)
  launcher image import dockerd://megatron-lm:latest    the local docker engine (podman://...)
  launcher image import ./rootfs | ./rootfs.tar.zst | ./image.sqsh

Credentials of a registry: ~/.config/enroot/.credentials (docs/how-to/images.md).
"""


def add_build(parser: argparse.ArgumentParser) -> None:
    """Options of build."""
    add = parser.add_argument
    add("spec", metavar="SPEC", nargs="?", help="a description in configs/images (default: megatron)")
    add("-f", "--file", metavar="DOCKERFILE", help="build this Dockerfile instead; its directory is the context")
    add("--context", metavar="DIR", help="the directory that the build may read")
    add("--target", metavar="STAGE", help="the stage to build (default: the last)")
    add("--build-arg", metavar="NAME=VALUE", action="append", default=[], help="an ARG of the Dockerfile; repeatable")
    add("--secret", metavar="NAME=FILE", action="append", default=[], help="a file for RUN --mount=type=secret,id=NAME")
    add("--engine", choices=("docker", "podman", "buildah"), help="build with this one (default: the first that works)")
    _add_shared(parser)
    add("--link", metavar="FILE", help="also leave a link to the image here, such as ./megatron-lm+latest.sqsh")


def add_import(parser: argparse.ArgumentParser) -> None:
    """Options of import."""
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a reference, a directory, a tarball or a squashfs file")
    add("--engine", choices=("enroot", "docker", "podman", "buildah"), help="import with this one")
    _add_shared(parser)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--name", metavar="NAME[:TAG]", help="the image's name in the store (default: from what it is made of)")
    add("--architecture", choices=("x86_64", "aarch64"), help="default: the profile's, else this machine's")
    add("--compression", metavar="KIND[:LEVEL]", help="zstd:3, lz4, none, ...; docs/measurements/image-compression.md")
    add_cluster(parser)
    add_job(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="leave out what the programs themselves say")


def run_build(parsed: argparse.Namespace) -> int:
    """Build, tell."""
    cluster, host = cluster_of(parsed)
    request = _build_request(parsed, cluster, host.directory)
    made = _make(parsed, cluster, request)
    if parsed.link:
        _link(host.directory / Path(parsed.link).expanduser(), made.entry.path)
    return _tell(parsed, made)


def run_import(parsed: argparse.Namespace) -> int:
    """Import, tell."""
    from launcher.images.build.importing import ImportRequest

    cluster, host = cluster_of(parsed)
    request = ImportRequest(
        source=parsed.source,
        directory=host.directory,
        name=parsed.name,
        architecture=parsed.architecture or cluster.architecture,
        compression=parsed.compression,
        engine=parsed.engine,
    )
    return _tell(parsed, _make(parsed, cluster, request))


def _build_request(parsed: argparse.Namespace, cluster: "Cluster", directory: Path) -> "BuildRequest":
    from launcher.images.build.build import BuildRequest

    spec = _spec(parsed, directory)
    arguments = {**spec.build_args, **_build_args(parsed.build_arg)}
    return BuildRequest(
        dockerfile=spec.directory / spec.dockerfile,
        context=directory / Path(parsed.context).expanduser() if parsed.context else spec.directory / spec.context,
        name=parsed.name or spec.name,
        target=parsed.target or spec.target,
        build_args=tuple(sorted(arguments.items())),
        architecture=parsed.architecture or cluster.architecture,
        engine=parsed.engine,
        compression=parsed.compression,
        secrets=_secrets(parsed.secret, directory),
    )


def _secrets(texts: list[str], directory: Path) -> tuple[tuple[str, Path], ...]:
    """Build secrets by name and file: a value on a command line would be seen by everybody. Raises SpecError."""
    from launcher._util.errors import SpecError

    found = []
    for text in texts:
        name, _, file = text.partition("=")
        path = directory / Path(file).expanduser()
        if not name or not file or not path.is_file():
            problem = f"there is no file {path}" if name and file else f"{text!r} is not NAME=FILE"
            raise SpecError(problem, where="--secret", hint="The file holds the secret; the build sees it as NAME.")
        found.append((name, path))
    return tuple(found)


def _spec(parsed: argparse.Namespace, directory: Path) -> "ImageSpec":
    """The description that is meant: a shipped one, or that of a Dockerfile alone. Raises SpecError."""
    import os

    from launcher._util.errors import SpecError
    from launcher.config.image import ImageSpec, load_image_spec

    if parsed.file is None:
        return load_image_spec(parsed.spec or "megatron", os.environ)
    if parsed.spec is not None:
        raise SpecError("SPEC and --file both say what to build", hint="Give one of them.")
    file = directory / Path(parsed.file).expanduser()
    # As docker has it: without a name of its own, the image is called after the directory that is built.
    name = parsed.name or f"{file.resolve().parent.name.lower()}:latest"
    return ImageSpec(dockerfile=file.name, context=".", name=name, directory=file.parent)


def _build_args(texts: list[str]) -> dict[str, str]:
    import os

    from launcher._util.errors import SpecError

    found = {}
    for text in texts:
        name, given, value = text.partition("=")
        if not given and name not in os.environ:
            raise SpecError(f"--build-arg {name} passes on the value of this shell, which has none")
        found[name] = value if given else os.environ[name]
    return found


def _make(parsed: argparse.Namespace, cluster: "Cluster", request: "BuildRequest | ImportRequest") -> "ImageOutcome":
    import os

    from launcher._util.shell import LocalShell
    from launcher.discovery.image import image_store
    from launcher.images.build.build import BuildRequest, build
    from launcher.images.build.importing import import_image

    store = image_store(cluster, os.environ)
    with TerminalReport(quiet=parsed.quiet) as report:
        if parsed.on:
            from launcher.cli.commands.image.on_cluster import make_on

            return make_on(parsed, cluster, request, store, report)
        if isinstance(request, BuildRequest):
            return build(request, store, LocalShell(), report)
        return import_image(request, store, LocalShell(), report)


def _link(link: Path, image: Path) -> None:
    """A symbolic link to the image, replacing an older link of ours, never a file. Raises ImageError."""
    from launcher._util.errors import ImageError

    if link.exists() and not link.is_symlink():
        raise ImageError("there is a file of that name already", where=str(link), hint="Move it away, then link again.")
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(image)
    partial.replace(link)
    say(f"{link} -> {image}")


def _tell(parsed: argparse.Namespace, made: "ImageOutcome") -> int:
    entry = made.entry
    names = ", ".join(entry.names)
    if parsed.json:
        print_json(
            {
                "digest": entry.digest,
                "path": str(entry.path),
                "names": list(entry.names),
                "size_bytes": entry.size_bytes,
                "reused": made.reused,
                "seconds": round(made.seconds, 1),
            }
        )
    how = "was there already" if made.reused else f"made in {made.seconds:.0f} s"
    say(f"{names or entry.digest}: {how}, {bytes_text(entry.size_bytes)}\n{entry.path}")
    return 0
