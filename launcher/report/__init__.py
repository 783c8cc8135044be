"""What is made of runs for people: the page of a run and the tables of its profiles."""
