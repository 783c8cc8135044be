"""pyxis: a plugin of srun that enters images by srun's own options (https://github.com/NVIDIA/pyxis).

Where a task differs from one in enroot or bwrap: /tmp is a tmpfs of each step; all tasks of a node share /run; a site's
hooks choose the devices (NVIDIA_VISIBLE_DEVICES, ...) and mount what PMIx needs.
"""

from launcher.runtimes.model import Container, ContainerRequest, ContainerRuntime


def container(request: ContainerRequest) -> Container:
    """Return the container as srun's options, without the name, which the script completes."""
    mounts = [f"{mount.source}:{mount.target}" + (":ro" if mount.read_only else "") for mount in request.mounts]
    srun_args = (
        f"--container-image={request.image}",
        f"--container-mounts={','.join(mounts)}",
        f"--container-workdir={request.run_dir}",
        "--no-container-mount-home",
        # A site's default may differ; the image's own entry point is never run.
        "--no-container-entrypoint",
        "--container-writable" if request.writable else "--container-readonly",
        # The image's variables override the job's unless they are named here.
        f"--container-env={','.join(request.named)}",
    )
    return Container("pyxis", request.label, request.writable, srun_args, (), request.named, None)


# It splits its list at `,` and `:`, then writes each mount into a script, as `echo "SRC DST FLAGS"`, whose output is
# read as fstab(5). Blanks and backslashes are escaped since pyxis 0.24 only (pyxis_slurmstepd.c, fstab_escape).
_UNMOUNTABLE = ',: \\"$`'

PYXIS = ContainerRuntime(
    name="pyxis",
    title="a plugin of srun",
    container=container,
    needs_srun=True,
    srun_option="--container-image",
    nvidia_hooks=True,
    srun_template="srun_pyxis.sh.j2",
    preparation_template="prepare_pyxis.sh.j2",
    removal_template="remove_pyxis.sh.j2",
    unmountable=_UNMOUNTABLE,
)
