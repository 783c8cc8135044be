"""The command line: one module per command, which parses, calls launcher/api and prints; nothing is decided here."""
