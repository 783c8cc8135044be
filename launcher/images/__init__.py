"""Images: names, what a squashfs file holds, the store, and how an image is made: enroot, docker, podman, buildah."""
