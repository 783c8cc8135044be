"""Files of the outside that a plan names: are they there?"""

import re
from collections.abc import Iterable
from pathlib import Path

from launcher.errors import SpecError


def require_image(image: str) -> None:
    """Raise SpecError unless `image` is a file that is not empty."""
    path = Path(image)
    if not path.is_file():
        name = path.name
        hint = "Make one (enroot import -o FILE docker://REFERENCE), or name the file: --image /path/to/image.sqsh."
        if re.search(r"[#:]", image) or not name.endswith(".sqsh"):
            hint = (
                "A reference into a registry has to be imported to a file once, or every node does it at every start:\n"
                f"enroot import -o image.sqsh docker://{image.rpartition('//')[2]}, then --image ./image.sqsh."
            )
        raise SpecError(f"there is no image {image}", where="--image", hint=hint)
    if path.stat().st_size == 0:
        raise SpecError("the image is empty: its import or build was cut off", where=image, hint="Make it again.")


def require_sources(sources: Iterable[str]) -> None:
    """Raise SpecError unless every source of a mount exists here, on the submitting side."""
    for source in sources:
        if not Path(source).exists():
            raise SpecError(
                f"there is no {source} to mount", where="--mount", hint="Create it, or leave the mount out."
            )
