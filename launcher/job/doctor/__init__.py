"""What `launcher doctor --nodes N` executes on the nodes: a program in place of the training, started the same way.

entry/doctor   the program: each rank's part, in order
program        the parts: checks of one process per node, checks across nodes, checks of each rank
expected       the cluster profile's values, as the program receives them
probes         files and programs: their text, or the reason why there is none
gpus, xid, links, host, disk, task_environment   verdicts over what was read, pure functions
rendezvous, clock, shared_directories            one process per node: ports, clocks, directories
compute        matrix product and all-reduce, where torch is installed

Verdicts are separate from reading, so that recorded output of other machines can be judged in tests.
"""
