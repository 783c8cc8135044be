"""Making images: engines, enroot, registries, the layout that enroot expects, mksquashfs."""
