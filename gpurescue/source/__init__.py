"""User source: cells, positions, transforms and alignment."""
