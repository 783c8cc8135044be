"""Facts that are collected once, before anything is decided, as frozen values.

host             the shell, the machine, the Slurm allocation, the clock
recipe           the recipe file, read without running it
recipe_index     Megatron Bridge's recipes by name, from a generated index
bridge_release   the release of Megatron Bridge that the job will find
container_runtime  the runtime of a cluster whose profile leaves it open
image            the image file that `--image` names
training_files   data, tokenizer and checkpoints that a configuration names
code_files       the files that a run needs in its `code/` directory
files            expansion and existence of paths
profiler         nsys, VizTracer and a user's own profiler class
cluster_probe    a first profile, written from the answers of a cluster's Slurm
"""
