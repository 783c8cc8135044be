"""Which profiler captures what: options, choice and checks."""
