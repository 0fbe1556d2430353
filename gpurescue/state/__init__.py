"""What torch knows of a run."""
