"""Loggers as a program has set them up, and set up again in another process.

A logger itself is found by its name. What it was given since ``%load_ext`` is kept:
its level, its filters and its handlers, also those of the root logger, which no
variable leads to. What a library gives its own loggers when it is imported is left to
the library.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gpurescue.state.libraries import bare
from gpurescue.state.lost import Lost

Reduced = tuple[Any, ...]
Signature = tuple[str, ...]
Settings = tuple[int, bool, bool]

_LIBRARIES = ("/site-packages/", "/dist-packages/")
_ROOT = "root"


class Changed(NamedTuple):
    """A logger that was set up.

    Attributes:
        name: Of the logger.
        settings: Its level, and whether it propagates and is disabled.
        filters: Those that were added.
        handlers: Those that were added.
        gone: Handlers that were taken away.
    """

    name: str
    settings: Settings
    filters: tuple[Any, ...]
    handlers: tuple[Any, ...]
    gone: tuple[Signature, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How loggers were set up.

    Attributes:
        disabled: The level up to which all of them are.
        loggers: Those that were changed; each as a plain tuple, which pickles faster.
    """

    disabled: int
    loggers: tuple[tuple[Any, ...], ...]

    @property
    def changed(self) -> list[Changed]:
        """Those that were changed."""
        return [Changed(*plain) for plain in self.loggers]


@dataclass(frozen=True, slots=True)
class _Before:
    settings: Settings = (logging.NOTSET, True, False)
    filters: tuple[Any, ...] = ()
    handlers: tuple[Signature, ...] = ()


_FRESH = _Before()


class Loggers:
    """The loggers of the process, as they were when this was made."""

    def __init__(self) -> None:
        self._before = {
            logger.name: _Before(
                _settings(logger),
                tuple(logger.filters),
                tuple(map(signature, logger.handlers)),
            )
            for logger in _all()
        }

    def read(self) -> Setup:
        """What has changed since."""
        found = (self._changed(logger) for logger in _all())
        return Setup(
            disabled=logging.root.manager.disable,
            loggers=tuple(tuple(changed) for changed in found if changed is not None),
        )

    def _changed(self, logger: logging.Logger) -> Changed | None:
        before, settings = self._before.get(logger.name, _FRESH), _settings(logger)
        if not (logger.handlers or logger.filters or before is not _FRESH):
            if settings == before.settings:
                return None
        own = [x for x in logger.handlers if not _is_librarys(x, logger)]
        now = {signature(handler) for handler in logger.handlers}
        made = Changed(
            logger.name,
            settings,
            filters=tuple(x for x in logger.filters if x not in before.filters),
            handlers=tuple(x for x in own if signature(x) not in before.handlers),
            gone=tuple(known for known in before.handlers if known not in now),
        )
        return made if any((settings != before.settings, *made[2:])) else None


def enter(setup: Setup) -> None:
    """Set loggers up as those of another process were.

    A handler whose like is there already is not added; nor is one whose stream is not.
    """
    logging.disable(setup.disabled)
    for changed in setup.changed:
        logger = logging.getLogger(changed.name)
        level, logger.propagate, logger.disabled = changed.settings
        logger.setLevel(level)
        for one in changed.filters:
            logger.addFilter(one)
        for handler in logger.handlers[:]:
            if signature(handler) in changed.gone:
                logger.removeHandler(handler)
        _add(logger, changed.handlers)


def _add(logger: logging.Logger, handlers: Iterable[Any]) -> None:
    known = [signature(handler) for handler in logger.handlers]
    for handler in handlers:
        is_whole = not isinstance(handler, Lost) and not isinstance(
            getattr(handler, "stream", None), Lost
        )
        if is_whole and signature(handler) not in known:
            logger.addHandler(handler)


def _all() -> Sequence[logging.Logger]:
    known = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(x for x in known if isinstance(x, logging.Logger))]


def _settings(logger: logging.Logger) -> Settings:
    return logger.level, logger.propagate, logger.disabled


def _is_librarys(handler: logging.Handler, logger: logging.Logger) -> bool:
    """Whether a library has made it for its own logger, as torch does."""
    own = logger.name.partition(".")[0]
    where = getattr(sys.modules.get(own), "__file__", None) or ""
    makers = {type(handler).__module__, type(handler.formatter).__module__}
    is_its_own = any(maker.partition(".")[0] == own for maker in makers)
    return is_its_own and any(folder in where for folder in _LIBRARIES)


def signature(handler: logging.Handler) -> Signature:
    """What a handler is like."""
    kind, formatter = type(handler), handler.formatter
    stream = getattr(handler, "stream", None)
    return (
        f"{kind.__module__}.{kind.__qualname__}",
        str(handler.level),
        str(getattr(handler, "baseFilename", "") or getattr(stream, "name", "")),
        str(getattr(formatter, "_fmt", None)),
        str(getattr(formatter, "datefmt", None)),
    )


# -- handlers in a graph of objects


def reduced(value: Any) -> Reduced | None:
    """How a handler is pickled; None for anything else, and for what says so itself."""
    if not isinstance(value, logging.Handler):
        return None
    kind = type(value)
    names = ("__reduce_ex__", "__reduce__", "__getstate__")
    if any(getattr(kind, x, None) is not getattr(object, x, None) for x in names):
        return None
    own = {name: x for name, x in vars(value).items() if name != "lock"}
    return bare, (kind,), own, None, None, fill


def fill(handler: Any, state: dict[str, Any]) -> None:
    """Called by the pickle: what a handler's ``__init__`` does for the process."""
    vars(handler).update(state)
    handler.createLock()
    logging._addHandlerRef(handler)  # type: ignore[attr-defined]
    if handler.name:
        handler.set_name(handler.name)
