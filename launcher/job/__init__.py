"""The half of the launcher that runs in the job, inside the training image.

It imports nothing from the rest of `launcher`, needs only the standard library until it imports torch, and stays
valid on Python 3.10. A copy of it travels in each run directory (`code/launcher/job`), so later edits do not reach
a queued run.
"""
