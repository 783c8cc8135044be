"""Sweeps: many runs of one recipe, each with other values, planned, submitted, followed and compared together."""
