"""The little on which the launcher and its half in the job must agree, and nothing else.

Like `launcher/job` it travels with each run: the standard library alone (Hydra's parser inside a function), valid
on Python 3.10, and it imports nothing from the rest.

    values   override texts in Hydra's grammar, and whether a value fits a type
    names    environment variables that nobody may override, and those that hold secrets
"""
