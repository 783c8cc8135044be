"""What NCCL says of the network it has chosen, held against what the cluster profile expects.

Nothing in this package is loaded where argv.json's `options.network` is absent or null.

expect     what is expected, from argv.json
variables  NCCL's debug variables: which are set, and in which file NCCL will write
parse      from NCCL's lines to what was selected; pure
causes     why it may be so; pure
judge      what was selected against what is expected: good, bad or unknown, with one sentence; pure
tail       a file that grows
warning    what NCCL warned of last, when it fails in the middle of a run; pure
report     the verdict's record, the timeline's line, the words in the rank's log
follower   the process beside one rank of each node that follows NCCL's file, and may end the rank
watch      the rank's side: sets the variables, starts the follower, has its word at the rank's end
"""
