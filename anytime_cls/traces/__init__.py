"""Every log-likelihood scored, in HDF5: written whole or not at all, read, merged, exported."""
