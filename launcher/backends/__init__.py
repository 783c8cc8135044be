"""From a plan to running ranks: three backends behind one protocol, over one step script.

protocol             what every backend does
local                ranks as processes of this machine
allocation           sbatch.sh in the allocation that this shell is in
batch                sbatch.sh as a job of its own, submitted exactly once
start                prepare and start a plan with the backend that it names
wait                 wait for a started run: Ctrl-C, the outcome
prepare              the run directory, whole or not at all
process_environment  environments of the programs that are started
image_uses           a run's use of its image, recorded in the image's store
entrypoint_call      questions that only the training stack can answer
conversion           the conversion program, here or on a compute node
task                 a Python function as a job on a compute node
"""
