"""Profiling of one rank. A run without profiling does not import this package.

prepare    this rank's Window, or none, from the request and the configuration
window     opens and closes a profiler at Megatron's steps, as callbacks of Bridge
builtin    torch, viztracer, memory, and the marks in nsys' timeline
record     a rank's record of its capture
nsys       the process around nsys, run as a file by step.sh: its command line, its end, its report
"""
