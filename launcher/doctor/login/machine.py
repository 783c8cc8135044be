"""This machine: directories, image, limits of the user, programs."""

import re

from launcher.contract.checks import Check, fail, ok, skip, warn
from launcher.contract.fabrics import FABRICS
from launcher.doctor.site import CommandOutput, DirectoryState, Site
from launcher.runtimes import CONTAINERS, RUNTIMES

_GIB = 1024**3
_RUN_ROOT_GIB, _STORE_GIB = 5, 30
"""Logs, metrics and a small checkpoint; a training image with the room to unpack it."""
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "ramfs", "overlay", "squashfs"})
"""Types of file systems that one machine alone sees, unless it exports them."""


def directory_check(name: str, place: DirectoryState | None, key: str, wanted_gib: float, *, alone: bool) -> Check:
    """Whether a directory is there or can be made, written to, and has room. `alone`: no other machine needs it."""
    if place is None:
        return skip(name, f"the profile names none ({key})")
    kind = place.kind or "an unknown file system"
    if place.error is not None:
        return fail(
            name,
            "not writable",
            f"{place.parent}: {place.error}",
            f"have it created for you, or name another directory: {key} in the profile",
        )
    free = (place.free or 0) / _GIB
    value = f"{place.path}: {free:.0f} GiB free, {kind}"
    if kind in _LOCAL and not alone:
        value += " (of one machine; whether the nodes see it, `--nodes` tells)"
    if not place.exists:
        value += ", will be created"
    if place.inodes is not None and place.inodes < 10_000:
        return warn(name, value, f"{place.inodes} files can still be created", "remove what is not needed there", free)
    if free < wanted_gib:
        judge = fail if free < wanted_gib / 50 else warn
        return judge(
            name,
            value,
            f"{free:.1f} GiB are free, and {wanted_gib:g} are soon used",
            f"make room there, or name another directory: {key} in the profile",
            free,
        )
    return ok(name, value, free)


def run_root_check(site: Site, place: DirectoryState | None) -> Check:
    """The directory of all runs."""
    return directory_check("run root", place, "run_root", _RUN_ROOT_GIB, alone=not site.has_slurm)


def store_check(site: Site, place: DirectoryState | None) -> Check:
    """The store of images, where the profile's runs have any."""
    if not RUNTIMES[site.cluster.runtime].is_container and site.cluster.image_store is None:
        return skip("image store", "the profile's runs use no image")
    return directory_check("image store", place, "image_store", _STORE_GIB, alone=not site.has_slurm)


def quota_check(answer: CommandOutput, path: str) -> Check:
    """What the user may still write, where `lfs quota` or `quota` tells."""
    name = "quota"
    if answer.text is None:
        return skip(name, answer.why)
    found = parse_quota(answer.text)
    if found is None:
        return ok(name, f"none on {path}")
    used, limit = found
    share = used / limit
    value = f"{used / 1024**2:.0f} of {limit / 1024**2:.0f} GiB used"
    remedy = "remove what is not needed (old checkpoints, images: `launcher image gc`), or ask for more"
    if share >= 1:
        return fail(name, value, f"a quota of yours is used up ({path} and what else `quota` tells of)", remedy, share)
    if share >= 0.9:
        return warn(
            name,
            value,
            f"{share:.0%} of a quota of yours are used ({path} and what else `quota` tells of)",
            remedy,
            share,
        )
    return ok(name, value, share)


def parse_quota(text: str) -> tuple[int, int] | None:
    """Used and limit in KiB of the fullest: lines of file system, used, soft, hard, ...; `*` marks what is exceeded."""
    found: list[tuple[int, int]] = []
    joined = re.sub(r"\n\s+(?=\d)", " ", text)  # a long name stands on a line of its own
    for line in joined.splitlines():
        fields = line.replace("*", "").split()
        if len(fields) < 4 or not all(field.isdigit() for field in fields[1:4]):
            continue
        used, soft, hard = (int(field) for field in fields[1:4])
        if limit := min((each for each in (soft, hard) if each), default=0):
            found.append((used, limit))
    return max(found, key=lambda pair: pair[0] / pair[1], default=None)


def image_check(site: Site, looked: Check | None) -> Check:
    """The image that runs of this profile are started in; `looked` is what came of looking at it."""
    name = "image"
    if not site.runtime.is_container:
        return skip(name, f"the runtime is {site.runtime.name}: tasks run on {site.runtime.title}")
    if looked is None:
        return skip(name, "neither the profile nor --image names one")
    return looked


def runtime_check(site: Site, on_path: frozenset[str]) -> Check:
    """Check what the runtime needs: an option of srun here, or programs on the nodes."""
    name = "runtime"
    runtime = site.runtime
    if not runtime.is_container:
        return ok(name, f"{runtime.name}: {runtime.title}")
    if runtime.needs_srun and (site.unknown is not None or site.srun_help is None):
        return skip(name, site.unknown or "srun --help did not answer", runtime.name)
    reason = runtime.why_unavailable(site.srun_help or "", on_path)
    if reason is None:
        return ok(name, runtime.name)
    if site.has_slurm and not runtime.needs_srun:
        return skip(name, f"{reason} here; the nodes need it, and `--nodes` checks them", runtime.name)
    others = ", ".join(each.name for each in CONTAINERS if each is not runtime)
    return fail(name, runtime.name, reason, f"install it, or choose another runtime in the profile ({others})")


def limits_check(site: Site) -> Check:
    """Limits of this shell: Slurm gives them to the tasks unless the site says otherwise."""
    name = "limits"
    locked = "unlimited" if site.memlock < 0 else f"{site.memlock / 1024**2:.0f} MiB"
    files = site.files[0]
    value = f"memlock {locked}, {files if files >= 0 else 'unlimited'} files"
    if (unknown := site.unknown) is not None:
        return skip(name, f"{unknown}, so whether the tasks get them is not known", value)
    kept = f"{site.config.get('PropagateResourceLimitsExcept', '')},".upper()
    passed_on = site.config.get("PropagateResourceLimits", "").upper() != "NONE"
    fabric = FABRICS.get(site.cluster.fabric or "")
    if passed_on and fabric and fabric.rdma and site.memlock >= 0 and "MEMLOCK," not in kept:
        return warn(
            name,
            value,
            f"Slurm gives this shell's memlock to the tasks, and {fabric.name} needs it unlimited",
            "`ulimit -l unlimited` before submitting, or PropagateResourceLimitsExcept=MEMLOCK in slurm.conf",
        )
    if passed_on and 0 <= files < 1024:
        return warn(name, value, "Slurm gives this shell's limit to the tasks", "`ulimit -n 65536` before submitting")
    return ok(name, value)


def python_check(answer: CommandOutput, program: str) -> Check:
    """The interpreter that runs the launcher's functions on the nodes, and the ranks where there is no container."""
    name = "python"
    if answer.text is None:
        return fail(
            name,
            program,
            answer.why,
            "name one that all machines have: launcher_python in the profile, and python where there is no container",
        )
    match = re.search(r"Python (\d+)\.(\d+)\S*", answer.text)
    if match is None:
        return skip(name, f"{program} --version says {answer.text.strip()!r}")
    if (int(match[1]), int(match[2])) < (3, 10):
        return fail(name, match[0], f"{program} is older than 3.10", "name a newer one in the profile")
    return ok(name, f"{match[0]} ({program})")
