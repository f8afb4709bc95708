"""Numbers about numbers: intervals, the bootstrap, calibration error. No torch."""
