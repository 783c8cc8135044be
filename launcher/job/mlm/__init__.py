"""Trainings by Megatron-LM's command line: its own scripts from a checkout, or `gpt.py` with the packages alone."""
