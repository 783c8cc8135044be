"""How an image comes to be: engines, enroot, registries, the layout that enroot expects, mksquashfs."""
