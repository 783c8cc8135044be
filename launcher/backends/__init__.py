"""From a plan to running ranks: three modes over one step script.

prepare     the run directory, whole or not at all
environ     what is passed on to the programs that are started
local       ranks as processes of this machine
allocation  sbatch.sh in the allocation that this shell is in
batch       sbatch.sh as a job of its own, submitted exactly once
uses        that a run needs its image, noted in the image's store
task        a function of ours as a job on a compute node
start       local or allocation, as the plan says
wait        watching a started step: Ctrl-C, the outcome
"""
