"""From a plan to running ranks: three modes over one step script.

prepare   the run directory, whole or not at all
local     processes on this machine
slurm     sbatch.sh, run in this allocation or submitted as a job
wait      watching a run from the terminal: progress, Ctrl-C, the outcome
"""
