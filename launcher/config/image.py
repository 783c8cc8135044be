"""Image descriptions, which `launcher image build` builds: a Dockerfile with its arguments, under a name."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import field

from launcher._util.errors import ConfigError
from launcher._util.resources import resource
from launcher.config.cluster import Text
from launcher.config.load import config_home, parse, read_toml
from launcher.config.model import Model


class ImageSpec(Model, frozen=True, kw_only=True):
    """An image that can be built, from `configs/images/NAME.toml`."""

    description: str = ""
    """One line for `launcher image build --help` and errors."""

    dockerfile: str = "Dockerfile"
    """Path relative to the project's root; in a user's own description relative to that file's directory."""

    context: str = "."
    """The directory that the build may read (its context), relative like `dockerfile`."""

    target: str | None = None
    """The stage to build; None means the last one."""

    name: Text
    """NAME[:TAG]: the image's name in the store, as in `--image NAME`."""

    build_args: dict[str, str] = field(default_factory=dict)
    """Values for the ARGs of the Dockerfile."""

    directory: Path = Path()
    """The directory that relative paths are relative to; set when the file is read."""


def image_specs(environ: Mapping[str, str]) -> dict[str, Path]:
    """Return the file of each image description by name; the user's own (~/.config/launcher/images) take precedence."""
    found: dict[str, Path] = {}
    for directory in (config_home(environ) / "images", resource("configs/images")):
        for path in sorted(directory.glob("*.toml")):
            found.setdefault(path.stem, path)
    return found


def load_image_spec(name: str, environ: Mapping[str, str]) -> ImageSpec:
    """Return the image description `name`. Raises ConfigError if it does not exist or is invalid."""
    known = image_specs(environ)
    if name not in known:
        raise ConfigError(
            f"there is no image description {name!r}",
            hint=f"Known: {', '.join(sorted(known)) or 'none'}. To build a Dockerfile: launcher image build -f FILE.",
        )
    path = known[name]
    values = read_toml(path)
    if "directory" in values:
        raise ConfigError("directory: unknown key", where=str(path))
    shipped = resource("configs/images")
    directory = shipped.parents[1] if path.parent == shipped else path.parent
    return parse(ImageSpec, {**values, "directory": directory}, where=str(path))
