"""Suspend a run in place and go on from there."""
