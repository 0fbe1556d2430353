"""An IPython shell in this process, with the extension loaded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import gpurescue
from gpurescue.magics import extension


@pytest.fixture
def bare() -> Iterator[InteractiveShell]:
    """A shell without the extension."""
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    shell = InteractiveShell(config=config)
    yield shell
    shell.reset(new_session=False)


@pytest.fixture
def ip(bare: InteractiveShell) -> Iterator[InteractiveShell]:
    """A shell with the extension; a run that is left over is abandoned."""
    gpurescue.load_ipython_extension(bare)
    yield bare
    session = extension.current().session
    if session.alive is not None:
        session.abandon()
    gpurescue.unload_ipython_extension(bare)
