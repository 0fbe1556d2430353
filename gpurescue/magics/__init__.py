"""The IPython front: the only place that knows IPython, and wires the rest."""
