"""A recorded trace raced again, without the model."""
