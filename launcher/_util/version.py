"""The version of the launcher."""

__version__ = "0.1.0"
