"""A data set into a trace, on one worker or many."""
