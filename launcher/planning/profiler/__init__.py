"""Profiling of a run: the user's options, checks, and the resulting plan."""
