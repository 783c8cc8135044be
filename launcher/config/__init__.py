"""What the user wrote: the cluster's profile and the request, as frozen values, and how they are found and layered.

cluster   a profile: facts about a site, from configs/clusters/*.toml or the user's own
request   what one run is: command line, LAUNCHER_* variables, configuration files, job file
load      where the files are, which value wins, errors with file and key
origin    why a profile says what it says: each value with its comment, its file, and what it replaced
"""
