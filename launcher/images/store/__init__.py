"""The store: content-named files, names, locks that hold across machines, uses of images, garbage collection."""
