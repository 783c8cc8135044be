"""Status, progress, logs and cancelling: functions of run directories and of what Slurm answers. There is no daemon.

progress_state   the progress of an attempt, from its own events
run_state        the state of a run, from its directory
status           the phase of a run, from its state and Slurm's answer
status_table     statuses as a table
status_details   what is shown of a run beside its row, and all of it as JSON
follower         the progress line of a run that is watched
logs             the log of a rank, printed or followed
cancel           ending runs, or making them save and stop
image_uses       whether a run still needs its image
tail             reading files that grow
"""
