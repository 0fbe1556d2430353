"""Calls of a training step that failed half-way: which of them can run again.

A backward pass, an optimizer's or a scheduler's step, a gradient scaler. Nothing is
noted while they run; all is read off their dead frames.
"""
