"""What is fitted on held-out traces: priors, temperatures, and thresholds that hold a stated risk."""
