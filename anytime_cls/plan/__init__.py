"""What was asked for and what the model says, settled once."""
