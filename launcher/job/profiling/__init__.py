"""What a rank does to be profiled. A run without profiling does not import this package.

prepare    from the request and the configuration to this rank's Window, or to none
window     opens and closes a profiler at Megatron's steps, as callbacks of Bridge
builtin    torch, viztracer, memory, and the marks in nsys' timeline
record     what a rank says of its capture
nsys       the process around nsys, run as a file by step.sh: its command line, its end, its report
"""
