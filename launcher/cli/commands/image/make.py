"""`launcher image build` and `launcher image import`: here, or with --in-job-on in a job on a compute node."""

import argparse
import os
from typing import TYPE_CHECKING

from launcher.cli.arguments import add_job, add_store_cluster, read_job
from launcher.cli.output import info, print_json
from launcher.cli.progress import TerminalProgress
from launcher.contract.units import bytes_text

if TYPE_CHECKING:
    from launcher.api.image import ImageOptions
    from launcher.images.build.result import ImageOutcome

BUILD_HELP = """\
Build a Dockerfile with docker, podman or buildah, whichever works here, and put the image into the store.

  launcher image build                             the project's own image: configs/images/megatron.toml
  launcher image build -f Dockerfile --name my:1   a Dockerfile of yours; then `--image my:1`
  launcher image build --in-job-on gb200           in a job on a compute node of that cluster
"""

IMPORT_HELP = """\
Import an image into the store, where `--image` finds it.

  launcher image import nvcr.io#nvidia/nemo:26.08       a registry (also nvcr.io/nvidia/..., docker://...)
  launcher image import dockerd://megatron-lm:latest    the local docker engine (podman://...)
  launcher image import ./rootfs | ./rootfs.tar.zst | ./image.sqsh

Credentials of a registry: ~/.config/enroot/.credentials (launcher help images).
"""


def add_build(parser: argparse.ArgumentParser) -> None:
    """Add the options of build."""
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
    """Add the options of import."""
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a reference, a directory, a tarball or a squashfs file")
    add("--engine", choices=("enroot", "docker", "podman", "buildah"), help="import with this one")
    _add_shared(parser)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--name", metavar="NAME[:TAG]", help="the image's name in the store (default: from what it is made of)")
    add("--architecture", choices=("x86_64", "aarch64"), help="default: the profile's, else this machine's")
    add("--compression", metavar="KIND[:LEVEL]", help="zstd:3, lz4, none, ... (launcher help image-compression)")
    add_store_cluster(parser)
    add_job(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="leave out what the programs themselves say")


def run_build(parsed: argparse.Namespace) -> int:
    """Build and print the image."""
    from launcher.api.image import BuildOptions, build_image

    build = BuildOptions(
        spec=parsed.spec,
        file=parsed.file,
        context=parsed.context,
        target=parsed.target,
        build_args=_build_args(parsed.build_arg),
        secrets=_secrets(parsed.secret),
        link=parsed.link,
    )
    with TerminalProgress(quiet=parsed.quiet) as progress:
        made = build_image(build, _options(parsed), progress)
    return _print(parsed, made)


def run_import(parsed: argparse.Namespace) -> int:
    """Import and print the image."""
    from launcher.api.image import import_image

    with TerminalProgress(quiet=parsed.quiet) as progress:
        made = import_image(parsed.source, _options(parsed), progress)
    return _print(parsed, made)


def _options(parsed: argparse.Namespace) -> "ImageOptions":
    from launcher.api.image import ImageOptions

    return ImageOptions(
        name=parsed.name,
        architecture=parsed.architecture,
        compression=parsed.compression,
        engine=parsed.engine,
        cluster=parsed.cluster,
        job=read_job(parsed),
    )


def _secrets(texts: list[str]) -> dict[str, str]:
    from launcher._util.errors import ConfigError

    found = {}
    for text in texts:
        name, _, file = text.partition("=")
        if not name or not file:
            raise ConfigError(
                f"{text!r} is not NAME=FILE",
                where="--secret",
                hint="The file holds the secret; the build sees it as NAME.",
            )
        found[name] = file
    return found


def _build_args(texts: list[str]) -> dict[str, str]:
    from launcher._util.errors import ConfigError

    found = {}
    for text in texts:
        name, given, value = text.partition("=")
        if not given and name not in os.environ:
            raise ConfigError(f"--build-arg {name} passes on the value of this shell, which has none")
        found[name] = value if given else os.environ[name]
    return found


def _print(parsed: argparse.Namespace, made: "ImageOutcome") -> int:
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
    info(f"{names or entry.digest}: {how}, {bytes_text(entry.size_bytes)}\n{entry.path}")
    return 0
