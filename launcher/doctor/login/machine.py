"""Checks of this machine: directories, image, limits of the user, programs."""

import re

from launcher.contract.checks import Check, fail, ok, skip, warn
from launcher.contract.fabrics import FABRICS
from launcher.doctor.site import CommandOutput, DirectoryState, Site
from launcher.runtimes import BARE, CONTAINERS, RUNTIMES

_GIB = 1024**3
_RUN_ROOT_GIB, _STORE_GIB = 5, 30
"""Space for logs, metrics and a small checkpoint; for a training image and unpacking it."""
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "ramfs", "overlay", "squashfs"})
"""Types of file systems that only one machine sees, unless it exports them."""


def directory_check(name: str, place: DirectoryState | None, key: str, wanted_gib: float, *, alone: bool) -> Check:
    """Check that a directory exists or can be created, is writable, and has enough free space.

    `key` is its key in the profile. `alone` is true if no other machine needs the directory.
    """
    if place is None:
        return skip(name, f"the profile names none ({key})")
    kind = place.kind or "an unknown file system"
    if place.error is not None:
        return fail(
            name,
            "not writable",
            f"{place.parent}: {place.error}",
            f"ask for it to be created, or name another directory: {key} in the profile",
        )
    free = (place.free or 0) / _GIB
    value = f"{place.path}: {free:.0f} GiB free, {kind}"
    if kind in _LOCAL and not alone:
        value += " (local to one machine; `--nodes` checks whether the nodes see it)"
    if not place.exists:
        value += ", will be created"
    if place.inodes is not None and place.inodes < 10_000:
        return warn(name, value, f"only {place.inodes} files can still be created", "remove unneeded files there", free)
    if free < wanted_gib:
        judge = fail if free < wanted_gib / 50 else warn
        return judge(
            name,
            value,
            f"{free:.1f} GiB are free, and runs soon need {wanted_gib:g}",
            f"free some space there, or name another directory: {key} in the profile",
            free,
        )
    return ok(name, value, free)


def run_root_check(site: Site, place: DirectoryState | None) -> Check:
    """Check the directory of all runs."""
    return directory_check("run root", place, "run_root", _RUN_ROOT_GIB, alone=not site.has_slurm)


def store_check(site: Site, place: DirectoryState | None) -> Check:
    """Check the image store, if runs of the profile use images."""
    if not RUNTIMES.get(site.cluster.runtime, BARE).is_container and site.cluster.image_store is None:
        return skip("image store", "the profile's runs use no image")
    return directory_check("image store", place, "image_store", _STORE_GIB, alone=not site.has_slurm)


def quota_check(answer: CommandOutput, path: str) -> Check:
    """Check the user's quota, if `lfs quota` or `quota` reports one."""
    name = "quota"
    if answer.text is None:
        return skip(name, answer.why)
    found = parse_quota(answer.text)
    if found is None:
        return ok(name, f"none on {path}")
    used, limit = found
    share = used / limit
    value = f"{used / 1024**2:.0f} of {limit / 1024**2:.0f} GiB used"
    remedy = "remove old checkpoints and images (`launcher image gc`), or ask for a larger quota"
    if share >= 1:
        return fail(name, value, f"one of your quotas is exhausted (of {path}, or another)", remedy, share)
    if share >= 0.9:
        return warn(
            name,
            value,
            f"{share:.0%} of one of your quotas is used (of {path}, or another)",
            remedy,
            share,
        )
    return ok(name, value, share)


def parse_quota(text: str) -> tuple[int, int] | None:
    """Return usage and limit of the fullest quota in KiB; None if there is no limit.

    Lines hold file system, used, soft limit, hard limit, ...; `*` marks an exceeded one.
    """
    found: list[tuple[int, int]] = []
    joined = re.sub(r"\n\s+(?=\d)", " ", text)  # a long name is on a separate line
    for line in joined.splitlines():
        fields = line.replace("*", "").split()
        if len(fields) < 4 or not all(field.isdigit() for field in fields[1:4]):
            continue
        used, soft, hard = (int(field) for field in fields[1:4])
        if limit := min((each for each in (soft, hard) if each), default=0):
            found.append((used, limit))
    return max(found, key=lambda pair: pair[0] / pair[1], default=None)


def image_check(site: Site, image: Check | None) -> Check:
    """Check the image of the profile's runs; `image` is the check of the image itself, None if none is named."""
    name = "image"
    if not site.runtime.is_container:
        return skip(name, f"the runtime is {site.runtime.name}: tasks run on {site.runtime.title}")
    if image is None:
        return skip(name, "neither the profile nor --image names one")
    return image


def runtime_check(site: Site, on_path: frozenset[str]) -> Check:
    """Check what the runtime needs: an option of srun here, or programs on the nodes."""
    name = "runtime"
    runtime = site.runtime
    if not runtime.is_container:
        return ok(name, f"{runtime.name}: {runtime.title}")
    if runtime.needs_srun and (site.why_unknown is not None or site.srun_help is None):
        return skip(name, site.why_unknown or "srun --help did not answer", runtime.name)
    reason = runtime.why_unavailable(site.srun_help or "", on_path)
    if reason is None:
        return ok(name, runtime.name)
    if site.has_slurm and not runtime.needs_srun:
        return skip(name, f"{reason} here; the nodes need it, and `--nodes` checks them", runtime.name)
    others = ", ".join(each.name for each in CONTAINERS if each is not runtime)
    return fail(name, runtime.name, reason, f"install it, or choose another runtime in the profile ({others})")


def limits_check(site: Site) -> Check:
    """Check the limits of this shell, which Slurm passes to the tasks unless the site configures otherwise."""
    name = "limits"
    locked = "unlimited" if site.memlock < 0 else f"{site.memlock / 1024**2:.0f} MiB"
    files = site.files[0]
    value = f"memlock {locked}, {files if files >= 0 else 'unlimited'} files"
    if (unknown := site.why_unknown) is not None:
        return skip(name, f"{unknown}, so it is unknown whether the tasks inherit them", value)
    kept = f"{site.config.get('PropagateResourceLimitsExcept', '')},".upper()
    passed_on = site.config.get("PropagateResourceLimits", "").upper() != "NONE"
    fabric = FABRICS.get(site.cluster.fabric or "")
    if passed_on and fabric and fabric.rdma and site.memlock >= 0 and "MEMLOCK," not in kept:
        return warn(
            name,
            value,
            f"Slurm passes this shell's memlock to the tasks, and {fabric.name} needs it unlimited",
            "`ulimit -l unlimited` before submitting, or PropagateResourceLimitsExcept=MEMLOCK in slurm.conf",
        )
    if passed_on and 0 <= files < 1024:
        return warn(name, value, "Slurm passes this shell's limit to the tasks", "`ulimit -n 65536` before submitting")
    return ok(name, value)


def python_check(answer: CommandOutput, program: str) -> Check:
    """Check the interpreter that runs the launcher's functions on the nodes, and ranks without a container."""
    name = "python"
    if answer.text is None:
        return fail(
            name,
            program,
            answer.why,
            "name one that all machines have: launcher_python in the profile, and python if runs use no container",
        )
    match = re.search(r"Python (\d+)\.(\d+)\S*", answer.text)
    if match is None:
        return skip(name, f"{program} --version prints {answer.text.strip()!r}")
    if (int(match[1]), int(match[2])) < (3, 10):
        return fail(name, match[0], f"{program} is older than 3.10", "name a newer one in the profile")
    return ok(name, f"{match[0]} ({program})")
