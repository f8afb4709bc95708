"""What many races ask for becomes full batches on a device."""
