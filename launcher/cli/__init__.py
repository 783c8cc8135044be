"""The command line: one module per verb, each parses, calls and prints; nothing is decided here."""
