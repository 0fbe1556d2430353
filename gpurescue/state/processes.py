"""Objects that belong to the process that they are in, and mean nothing in another.

Some of them pickle, part by part. A thread would come back as one that seems to run and
does not, and a child process as a number that is somebody else's by now.
"""

from __future__ import annotations

from gpurescue.errors import CannotResume

_KINDS = {
    ("threading", "Thread"): "a thread ends with its process",
    ("subprocess", "Popen"): "a child is known by its parent only",
    ("multiprocessing.process", "BaseProcess"): "a child is known by its parent only",
    ("multiprocessing.pool", "Pool"): "its workers are children of the process",
    ("concurrent.futures._base", "Executor"): "its workers are parts of the process",
    ("concurrent.futures._base", "Future"): "who works for it is a part of the process",
}


def check(value: object) -> None:
    """Refuse an object that cannot be one of another process.

    Raises:
        CannotResume: It cannot; says why.
    """
    for kind in type(value).__mro__:
        why = _KINDS.get((kind.__module__, kind.__name__))
        if why is not None:
            raise CannotResume(why)
