"""What stands where something could not be had again."""

from __future__ import annotations

from typing import Any

from gpurescue.errors import CannotResume


class Lost:
    """Stands where something could not be written, or not be made again.

    What it was given to may ask at once if it is an iterator, or a function.

    Args:
        kind: The type of what it stands for.
        why: Why it is not here.

    Raises:
        AttributeError: When it is asked for an attribute that only the lost one had.
    """

    def __init__(self, kind: str, why: str = "could not be kept") -> None:
        self.kind = kind
        self.why = why

    def __iter__(self) -> Lost:
        return self

    def __next__(self) -> Any:
        raise CannotResume(f"A {self.kind} is asked for, which {self.why}.")

    def __call__(self, *_: object, **__: object) -> Any:
        """What it would have done is not known.

        Raises:
            CannotResume: Always.
        """
        raise CannotResume(f"A {self.kind} is called, which {self.why}.")

    def __getattr__(self, name: str) -> Any:
        own = vars(self)  # empty while it is unpickled
        raise AttributeError(
            f"A {own.get('kind')} that {own.get('why')} is asked for {name!r}: make it "
            "anew."
        )

    def __repr__(self) -> str:
        return f"<a {self.kind} that {self.why}>"


def attribute(owner: object, name: str) -> Any:
    """Called by the pickle, for a method that is built in."""
    if isinstance(owner, Lost):
        return Lost(f"{owner.kind}.{name}", owner.why)
    return getattr(owner, name)
