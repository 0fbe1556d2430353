"""DataLoaders that raise: the same batch again, after the fix.

While a run is active the iterator of a DataLoader holds the run when it fails
(``watching``). What it had drawn is read off its dead frames (``single``, ``crew``) and
put back before it is asked again: the indices of the batch, the random streams as they
stood, and in the place of workers with old code new ones (``restart``). Where there are
no indices new workers go the way of the old ones again (``replay``).

How far an iterator is can be written down, too (``position``), and gone on from in
another process (``rejoin``).
"""
