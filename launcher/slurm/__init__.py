"""What is asked of Slurm, and the reading of its answers; nothing else.

ask      one question: the environment that makes answers readable, and telling "no" from "no answer"
submit   sbatch, exactly once, its refusals explained
queue    states of jobs, from squeue and then sacct
poller   the same again and again, with pauses
control  scancel, requeue, host names
info     what a cluster looks like: partitions, GPUs, MPI types, settings
probe    all of that at once, and which options sbatch accepts

Slurm's `--json` is never used: its layout changed with the releases 23.02, 24.05 and 24.11, `-o` formats did not.
"""
