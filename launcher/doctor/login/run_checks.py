"""All checks of the login node in their order, with the facts that they need besides Slurm's answers."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from launcher._util.errors import LauncherError
from launcher._util.shell import Shell
from launcher.contract.checks import Check, fail, ok, skip
from launcher.discovery.files import expanded
from launcher.discovery.image import image_store, resolve_image
from launcher.doctor.login import cluster, machine, profile
from launcher.doctor.site import CommandOutput, DirectoryState, Site, probe_directory, run_program
from launcher.planning import make


def checks(site: Site, tested: CommandOutput, shell: Shell) -> tuple[Check, ...]:
    """Run all checks; `tested` is the answer of sbatch to a run's script."""
    mounts = _mounts()
    run_root = probe_directory(make.run_root(site.request, site.cluster, site.host), mounts)
    store = probe_directory(image_store(site.cluster, site.host.environ).root, mounts)
    python = _python(site)
    on_path = frozenset(each for each in site.runtime.programs if _which(each, site))
    found = [_safe(each, site) for each in (*cluster.CHECKS, *profile.CHECKS)]
    return (
        *found,
        cluster.directives_check(site, tested),
        machine.run_root_check(site, run_root),
        machine.store_check(site, store),
        machine.quota_check(_quota(run_root, site, shell), str(run_root.parent)),
        machine.image_check(site, _image(site, shell)),
        machine.runtime_check(site, on_path),
        machine.limits_check(site),
        machine.python_check(run_program([python, "--version"], shell), python),
    )


def _safe(check: Callable[[Site], Check], site: Site) -> Check:
    """Run one check; if Slurm's answer has an unknown format, skip it and let the others run."""
    try:
        return check(site)
    except (ValueError, IndexError, KeyError) as error:
        return skip(check.__name__.removesuffix("_check"), f"Slurm's answer was not understood: {error}")


def _mounts() -> str:
    """Return what is mounted, as /proc shows it; nothing on a system without it."""
    try:
        return Path("/proc/self/mounts").read_text()
    except OSError:
        return ""


def _which(program: str, site: Site) -> bool:
    return shutil.which(program, path=site.host.environ.get("PATH", os.defpath)) is not None


def _python(site: Site) -> str:
    chosen = (
        (None if site.runtime.is_container else site.cluster.python) or site.cluster.launcher_python or site.host.python
    )
    return expanded(chosen, site.host.environ)


def _quota(place: DirectoryState, site: Site, shell: Shell) -> CommandOutput:
    """Query the user's quota: `lfs quota` on Lustre, else `quota`."""
    if place.kind == "lustre":
        return run_program(["lfs", "quota", "-q", "-u", site.host.user, str(place.parent)], shell)
    if not _which("quota", site):
        return CommandOutput(None, f"no program reports quotas of {place.kind or 'this file system'}")
    # The exit status of quota is 1 if a quota is exceeded.
    return run_program(["quota", "--no-wrap", "--hide-device", "--show-mntpoint"], shell, good=(0, 1))


def _image(site: Site, shell: Shell) -> Check | None:
    text = site.request.image or site.cluster.image
    if text is None or not site.runtime.is_container:
        return None
    try:
        image = resolve_image(text, cluster=site.cluster, host=site.host, shell=shell)
    except LauncherError as error:
        return fail("image", text, error.message, error.hint or "`launcher image list` shows the images")
    size = f"{image.size_bytes / 1024**3:.1f} GiB, {image.architecture or 'unknown architecture'}"
    if image.architecture is None or site.cluster.architecture is None:
        why = next(iter(image.unchecked), "the profile names no architecture to compare it with")
        return skip("image", why.removeprefix("the image: "), f"{text}, {size}")
    return ok("image", f"{text}, {size}")
