"""Helpers without knowledge of runs: errors, external programs, package resources, processes, tables."""
