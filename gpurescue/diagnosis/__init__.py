"""A suspension as data, and as something to look at."""
