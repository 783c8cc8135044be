"""Configuration that users and sites write, as frozen values: where it is found, and which value wins.

cluster   a cluster profile: facts about a site, from configs/clusters/*.toml or the user's own directory
request   one run: command line, LAUNCHER_* variables, configuration files, job file
image     image descriptions: what `launcher image build` can build
load      finding and layering the files, errors with file and key
origins   each value of a profile with its comment, its file, and the values that it replaces
"""
