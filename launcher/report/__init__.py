"""Reports about runs: the page of a run, and tables of its profiles."""
