"""What `launcher doctor --nodes N` executes on the nodes: a program in place of training's, in the same surroundings.

entry/doctor   the program: each rank's part, in order
expected       what the cluster's profile says, as the program is told
reading        files and programs, read or with the reason why not
gpus, xid, links, host, disk, surroundings   verdicts over what was read, pure
meeting, exchange, together   one process of each node: clocks, shared directories, ports
compute        matrix product and all-reduce, where torch is there

Verdicts are kept apart from reading, so that recorded output of machines that nobody has at hand can be judged.
"""
