"""Plan: everything about a run is decided here, purely, from what the user wrote and what the world is like."""
