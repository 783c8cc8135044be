"""A cluster from another machine: profiles with [ssh], through the system's ssh and the launcher on the host.

cluster     whether a command is about such a cluster
connection  one ssh for one request, over a connection that several share
package     what of a request travels: its files, its profile, its variables
commands    submit, plan, status, logs, cancel and pull as they work from elsewhere
host        the program that answers, on the host
"""
