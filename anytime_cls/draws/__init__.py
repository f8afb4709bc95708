"""What all classes of an image share, as a function of (seed, content, k): orders and views."""
