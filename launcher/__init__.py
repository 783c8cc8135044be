"""Megatron Launcher: one recipe, run locally, in a Slurm allocation or as a batch job."""

__version__ = "0.1.0"
