"""What a run has outside of its objects, when it is brought back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpurescue.magics.scene import FOLDER, LOGGERS, MODES
from gpurescue.state import loggers, maps, modes, reopening, written
from gpurescue.state.capture import FILES, MAPS
from gpurescue.store.store import Store

_ASIDE = "cut"  # in the store's folder: what was cut off from files


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Files, and settings of the process.

    Attributes:
        began: When the run was begun, in seconds since 1970.
        files: Open ones.
        arrays: Those that are files, each with what is to be in it.
        appended: Files that it is to append to again.
        touched: Those of them that somebody has written to since.
        aside: Where what is cut off from those is kept.
        settings: Of torch.
        setup: Of loggers; None for none.
    """

    began: float
    files: list[reopening.Standing]
    arrays: list[tuple[Any, Any]]
    appended: tuple[written.Written, ...]
    touched: tuple[written.Written, ...]
    aside: Path
    settings: dict[str, Any]
    setup: Any

    @classmethod
    def of(cls, found: Mapping[str, Any], store: Store, id: str) -> Outside:
        """What was loaded of it.

        Args:
            found: The variables of a checkpoint.
            store: Where that is.
            id: Which one it is.
        """
        folder, files = found[FOLDER], found[FILES]
        ended = store.runs.ended(store.manifest(id)[0].run, id)
        known = {file.path for file in files}
        appended, touched = written.appended(folder, ended, known)
        return cls(
            began=folder.began,
            files=files,
            arrays=found[MAPS],
            appended=appended,
            touched=touched,
            aside=Path(store.path) / _ASIDE,
            settings=found[MODES],
            setup=found.get(LOGGERS),
        )

    @property
    def told(self) -> str:
        """What is cut off and what is not, each as a line; empty if nothing was."""
        told = ""
        if self.appended:
            told += (
                f"\nCut back to what {_named(self.appended)} had then; the rest is "
                f"kept in {self.aside}."
            )
        if self.touched:
            told += (
                "\nLeft as they are, as somebody has written to them since: "
                f"{_named(self.touched)}. What is appended again is there twice."
            )
        return told

    def go_on(self) -> None:
        """Have all of it as it was; called in the run's thread before anything runs.

        Raises:
            CannotResume: A file is not what it was.
            OSError: What was appended to a file cannot be cut off.
        """
        reopening.go_on(self.files)
        written.cut(self.appended, self.aside)
        maps.go_on(self.arrays)
        modes.write(self.settings)
        if self.setup is not None:
            loggers.enter(self.setup)

    def close(self) -> None:
        """Nobody goes on with it; nothing was changed."""
        reopening.close(self.files)


def _named(files: tuple[written.Written, ...]) -> str:
    return ", ".join(os.path.basename(file.path) for file in files)
