"""What runs have logged, of which version they were, and what they never logged."""
