"""What was captured of a run: the list, whether each report is sound, and tables of what is in them.

listing    every expected capture with its file, size, steps and what is wrong with it
opening    whether a file opens and holds the steps that its rank recorded
reading    nsys' SQLite export, torch's and VizTracer's traces, as polars frames
tables     top kernels, communication, exposed communication and idle time
show       for people and for programs
"""
