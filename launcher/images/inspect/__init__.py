"""Contents of images: the squashfs format, one view on unpacked and packed root file systems, packages, plugins."""
