"""Planning: `make_plan` decides everything about a run, as a pure function of the request and of collected facts."""
