"""Ready searches and cluster files, as package data."""
