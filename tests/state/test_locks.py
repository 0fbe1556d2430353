"""Locks, and what is made of them, in a program that goes on in another one."""

from __future__ import annotations

import queue
import threading

import pytest

from gpurescue.state import graph, rebuilding


def again(roots):
    captured = graph.capture(roots)
    parts = rebuilding.Parts(lambda number: None, [], lambda name: None)
    return rebuilding.rebuild(captured.data, parts), captured.lost


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_a_lock_that_nobody_holds_is_one_again(make):
    lock = make()
    found, lost = again({"lock": lock, "same": [lock], "acquire": lock.acquire})
    assert lost == {}
    assert found["same"] == [found["lock"]]
    assert type(found["lock"]) is type(lock)
    found["acquire"]()
    other = threading.Thread(target=lambda: taken.append(found["lock"].acquire(False)))
    taken = []
    other.start()
    other.join()
    assert taken == [False]
    found["lock"].release()
    assert lock.acquire(False)
    lock.release()


def test_what_is_made_of_locks_goes_on():
    roots = {
        "event": threading.Event(),
        "semaphore": threading.BoundedSemaphore(2),
        "condition": threading.Condition(),
        "queue": queue.PriorityQueue(3),
    }
    roots["event"].set()
    roots["semaphore"].acquire()
    for number in (3, 1):
        roots["queue"].put(number)
    found, lost = again(roots)
    assert lost == {}
    assert found["event"].is_set()
    assert found["semaphore"].acquire(False)
    assert not found["semaphore"].acquire(False)
    assert [found["queue"].get(False) for _ in range(2)] == [1, 3]
    with found["condition"]:
        found["condition"].notify_all()
    found["queue"].put(5, timeout=0)


def _held(lock):
    lock.acquire()
    return lock


def _held_elsewhere():
    lock = threading.RLock()
    other = threading.Thread(target=lock.acquire)
    other.start()
    other.join()
    return lock


LOST = {
    "lock: it is held": lambda: _held(threading.Lock()),
    "RLock: it is held": lambda: _held(threading.RLock()),
    "RLock: it is held ": _held_elsewhere,
    "_local: each thread has values of its own in it": threading.local,
    "_MainThread: a thread ends with its process": threading.main_thread,
}


@pytest.mark.parametrize("why", LOST)
def test_what_belongs_to_a_thread_is_named(why):
    value = LOST[why]()
    found, lost = again({"value": [value], "n": 3})
    assert lost == {"value[0]": why.strip()}
    assert found["n"] == 3
