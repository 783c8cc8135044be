"""The store: content-named files, names, locks that hold across machines, who uses what, and clearing up."""
