"""`launcher doctor`: is this cluster as its profile says, and fit to train on?

site       what Slurm and this machine say, asked once
login      checks of the login node, pure over what was asked
job        the node checks as a run of their own: in this allocation, as a batch job, or on this machine
reports    what each node's ranks have left, put together
table      for people and for programs

The checks of the nodes are in launcher/job/doctor, because they run there.
"""
