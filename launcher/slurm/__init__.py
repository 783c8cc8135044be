"""Commands of Slurm, and the reading of their output; nothing else.

ask      one command: the environment that makes its output readable, "no" kept apart from "no answer"
submit   sbatch, exactly once, its refusals explained
queue    states of jobs, from squeue and then sacct
poller   the same repeatedly, with pauses
control  scancel, host names
info     a cluster: partitions, GPUs, MPI types, Slurm's configuration
nodes    single nodes: state, reason, resources
probe    all of that at once, and which options sbatch accepts

Slurm's `--json` is never used: its layout changed with the releases 23.02, 24.05 and 24.11, `-o` formats did not.
"""
