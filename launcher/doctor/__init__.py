"""`launcher doctor`: checks whether a cluster matches its profile and is fit to train on.

site           answers of Slurm and this machine, collected once
login          checks of the login node, pure functions of these answers
inputs         what a recipe reads, as this machine sees it
expected       the values that the node checks compare with
job            the node checks as a run: in this allocation, as a batch job, or on this machine
node_reports   the records of all ranks, combined into one report for each node
report         the result as a table and as JSON

The node checks themselves are in launcher/job/doctor, because they run in the job.
"""
