"""What each command does, as typed functions: the command line and the Python API call them.

A function takes a typed request and, where its work takes long, a `Progress` that it reports to. It returns frozen
values and raises a LauncherError. Nothing here parses arguments or prints.

    progress           the protocol of long work's reports
    locate             where runs, cluster profiles and image stores are
    discover           from a request to everything that its plan is made from
    prepare_plan       from a request to its plan; check_config asks the recipe itself on the way
    plan, run, submit, ...   one module for each command
"""
