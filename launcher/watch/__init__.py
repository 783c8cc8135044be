"""Looking after runs: each command is a function of the run directory and of what Slurm answers; there is no daemon.

figures   an attempt's numbers from its own events, pure
facts     what a run directory says of its run
status    what that means together with Slurm's answer
show      statuses as a table, as plain text, as JSON
progress  the progress line of a run that is watched
logs      the log of a rank, printed or followed
cancel    ending runs, or having them save and stop
profiles  what was captured, and what it says
page      all of it as one HTML file
uses      whether a run still needs its image
runs      finding runs
"""
