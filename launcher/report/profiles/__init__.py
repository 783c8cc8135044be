"""Profiles of a run: the list of captures, whether each report is sound, and tables of their content.

listing       every expected capture with its file, size, steps and problems
verify        whether a report can be read and holds the steps that its rank recorded
activities    nsys' SQLite export and the traces of torch and VizTracer
time_shares   the longest names; communication, exposed communication and idle time
tables        the list and the summary as tables and as JSON
"""
