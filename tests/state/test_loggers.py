"""Loggers as a program has set them up, in a process where nobody has."""

from __future__ import annotations

import io
import logging
import logging.handlers
import sys
from pathlib import Path

import pytest

from gpurescue.state import capture, graph, loggers, rebuilding, reopening

NAMES = ("gr_test", "gr_test.inner", "torch", "root")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Makes loggers what they were, as in a new process."""
    monkeypatch.chdir(tmp_path)
    before = {
        name: (x.level, x.propagate, x.disabled, x.filters[:], x.handlers[:])
        for name in NAMES
        for x in [logging.getLogger(name)]
    }

    def forget():
        logging.disable(logging.NOTSET)
        for name, (level, propagate, disabled, filters, handlers) in before.items():
            logger = logging.getLogger(name)
            for handler in set(logger.handlers) - set(handlers):
                handler.close()
            logger.setLevel(level)
            logger.propagate, logger.disabled = propagate, disabled
            logger.filters[:], logger.handlers[:] = filters, handlers

    yield forget
    forget()


def taken(known, **roots):
    return capture.capture({"<loggers>": known.read(), **roots}, [])


def again(captured):
    parts = rebuilding.Parts(lambda number: None, [], lambda name: None)
    found = capture.rebuilt(captured.objects, captured.streams, parts)
    reopening.go_on(found[capture.FILES])
    loggers.enter(found["<loggers>"])
    return found


class Shouting(logging.Formatter):
    def format(self, record):
        return super().format(record).upper()


def test_a_logger_goes_on_with_all_that_it_was_given(fresh):
    known = loggers.Loggers()
    logger = logging.getLogger("gr_test.inner")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addFilter(logging.Filter("gr_test"))
    handler = logging.FileHandler("log.txt", mode="w")
    handler.setFormatter(Shouting("%(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.info("one")
    captured = taken(known, logger=logger, handler=handler)
    logger.info("two")
    wanted = Path("log.txt").read_text()
    assert captured.lost == {}
    fresh()
    found = again(captured)
    assert found["logger"] is logger
    assert logger.handlers == [found["handler"]]
    assert found["handler"] is not handler
    assert (logger.level, logger.propagate) == (logging.DEBUG, False)
    assert [x.name for x in logger.filters] == ["gr_test"]
    logger.debug("not this")
    logger.info("two")
    assert Path("log.txt").read_text() == wanted


def test_the_root_logger_goes_on(fresh, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    known = loggers.Loggers()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    logging.disable(logging.DEBUG)
    captured = taken(known)
    assert captured.lost == {}
    fresh()
    logging.root.handlers.clear()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    again(captured)
    logging.info("text")
    assert sys.stdout.getvalue() == "text\n"
    assert logging.root.manager.disable == logging.DEBUG


def test_a_handler_whose_like_is_there_is_not_doubled(fresh):
    known = loggers.Loggers()
    logger = logging.getLogger("gr_test")
    logger.addHandler(logging.StreamHandler(sys.stderr))
    captured = taken(known)
    again(captured)
    assert len(logger.handlers) == 1


def test_what_was_there_before_is_neither_kept_nor_doubled_but_stays_gone(fresh):
    logger = logging.getLogger("gr_test")
    one, two = logging.StreamHandler(sys.stderr), logging.NullHandler()
    logger.handlers = [one, two]
    known = loggers.Loggers()
    assert all(changed.name != "gr_test" for changed in known.read().changed)
    logger.removeHandler(one)
    captured = taken(known)
    logger.handlers = [one, two]
    again(captured)
    assert logger.handlers == [two]


def test_what_a_library_gives_its_own_loggers_is_left_to_it(fresh):
    torch = pytest.importorskip("torch")
    known = loggers.Loggers()
    logger, kind = logging.getLogger("torch"), type("Own", (logging.StreamHandler,), {})
    kind.__module__ = torch.__name__
    logger.addHandler(kind())
    logger.addHandler(logging.StreamHandler(sys.stdout))
    (changed,) = known.read().changed
    assert [type(x) for x in changed.handlers] == [logging.StreamHandler]


def test_a_handler_that_cannot_be_kept_is_named_and_left_out(fresh):
    known = loggers.Loggers()
    logger = logging.getLogger("gr_test")
    with open("/proc/self/comm", "w") as file:
        logger.addHandler(logging.StreamHandler(file))
        logger.addHandler(logging.NullHandler())
        captured = taken(known)
    (path,) = captured.lost
    assert path.startswith("<loggers>.loggers[")
    fresh()
    again(captured)
    assert [type(x) for x in logger.handlers] == [logging.NullHandler]


def test_a_handler_is_closed_when_the_process_ends():
    handler = logging.handlers.MemoryHandler(10)
    found = rebuilding.rebuild(
        graph.capture({"handler": handler}).data,
        rebuilding.Parts(lambda number: None, [], lambda name: None),
    )["handler"]
    assert any(reference() is found for reference in logging._handlerList)
    assert found.lock.acquire(blocking=False)
    found.lock.release()
