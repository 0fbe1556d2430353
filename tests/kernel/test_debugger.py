"""JupyterLab's debugger: breakpoints in guarded functions and in the cell's body.

Speaks the debug adapter protocol over the control channel, as JupyterLab does.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("debugpy")
pytestmark = pytest.mark.kernel

FUNCTION = """\
def compute(x):
    y = x + 1
    for i in range(2):
        y = y * 2
    return y
"""
BODY = """\
%%resilient
total = 0
for step in range(2):
    total += compute(step)
print("total", total)
"""


class Debugger:
    """A client of the kernel's debug adapter."""

    def __init__(self, notebook: Any) -> None:
        self.notebook = notebook
        self.client = notebook.client
        self.numbers = itertools.count(1)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        content = {
            "type": "request",
            "seq": next(self.numbers),
            "command": command,
            "arguments": arguments,
        }
        message = self.client.session.msg("debug_request", content)
        self.client.control_channel.send(message)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                reply = self.client.get_control_msg(timeout=1)
            except queue.Empty:
                continue
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return reply["content"]
        raise TimeoutError(command)

    def attach(self) -> None:
        self.ask(
            "initialize",
            clientID="test",
            adapterID="",
            pathFormat="path",
            linesStartAt1=True,
            columnsStartAt1=True,
            supportsVariableType=True,
        )
        self.ask("attach", justMyCode=True)

    def breakpoints(self, code: str, *lines: int) -> None:
        path = self.ask("dumpCell", code=code)["body"]["sourcePath"]
        wanted = [{"line": line} for line in lines]
        reply = self.ask(
            "setBreakpoints",
            breakpoints=wanted,
            source={"path": path},
            sourceModified=False,
        )
        assert reply["success"], reply
        self.ask("configurationDone")

    def wait_for_stop(self) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            found = message["content"]
            if message["msg_type"] == "debug_event" and found["event"] == "stopped":
                return found["body"]
        raise TimeoutError("stopped")

    def stack(self, thread: int) -> list[tuple[str, int]]:
        reply = self.ask("stackTrace", threadId=thread)
        frames = reply["body"]["stackFrames"]
        return [(frame["name"], frame["line"]) for frame in frames]

    def go_on(self, thread: int) -> None:
        self.ask("continue", threadId=thread)

    def lines_until(self, request: str, num_stops: int) -> list[tuple[str, int]]:
        """Function and line of each stop; then the cell must end by itself."""
        found = []
        for _ in range(num_stops):
            thread = self.wait_for_stop()["threadId"]
            found.append(self.stack(thread)[0])
            self.go_on(thread)
        assert self.notebook.collect(request, timeout=30).is_ok
        return found

    def detach(self) -> None:
        self.ask("disconnect", restart=False, terminateDebuggee=False)


@pytest.fixture
def debugger(notebook) -> Iterator[Debugger]:
    found = Debugger(notebook)
    found.attach()
    yield found
    found.detach()


def test_breakpoints_in_functions_and_in_the_body(notebook, debugger):
    debugger.breakpoints(FUNCTION, 4)
    assert notebook.run(FUNCTION).is_ok
    debugger.breakpoints(BODY, 4)
    request = notebook.send(BODY)
    stops = []
    for _ in range(6):
        thread = debugger.wait_for_stop()["threadId"]
        stops.append(debugger.stack(thread)[0][1])
        debugger.go_on(thread)
    found = notebook.collect(request, timeout=30)
    assert found.is_ok
    assert stops == [4, 4, 4, 4, 4, 4]
    assert found.stdout == "total 12\n"


def test_breakpoint_after_the_resume(notebook, debugger):
    broken = FUNCTION.replace("y * 2", "y * nothing")
    fixed = FUNCTION.replace("y * 2", "y * 3").replace("compute", "compute")
    assert notebook.run(broken).is_ok
    assert notebook.run(BODY).error == "Suspended"
    debugger.breakpoints(fixed, 5)
    assert notebook.run(fixed).is_ok
    request = notebook.send("%resume")
    thread = debugger.wait_for_stop()["threadId"]
    stack = debugger.stack(thread)
    assert stack[0][1] == 5
    assert stack[0][0].startswith("compute")
    debugger.go_on(thread)
    thread = debugger.wait_for_stop()["threadId"]
    debugger.go_on(thread)
    assert notebook.collect(request, timeout=30).stdout.endswith("total 27\n")


LOOPS = """\
def collect(table, out):
    for key in range(4):
        with guard:
            value = table[key]
            value = value * 2
        out.append(value)
        total = sum(out)
    return total
"""


def test_breakpoints_in_every_part_of_a_continuation(notebook, debugger):
    notebook.run("import contextlib\nguard = contextlib.nullcontext()\n")
    notebook.run("table, out = {0: 1, 1: 2}, []")
    debugger.breakpoints(LOOPS, 5, 6, 8)
    assert notebook.run(LOOPS).is_ok
    request = notebook.send("%%resilient\ntotal = collect(table, out)\n")
    stops = []
    for _ in range(4):  # two rounds without a failure
        thread = debugger.wait_for_stop()["threadId"]
        stops.append(debugger.stack(thread)[0][1])
        debugger.go_on(thread)
    assert stops == [5, 6, 5, 6]
    assert notebook.collect(request, timeout=30).error == "Suspended"
    notebook.run("table |= {2: 3, 3: 4}")
    request = notebook.send("%resume")
    # What is left of the block, what follows it, the next round, what is behind.
    stops = debugger.lines_until(request, 5)
    assert [line for _, line in stops] == [5, 6, 5, 6, 8]
    assert {name for name, _ in stops} == {"collect"}
    assert notebook.run("total, out").value == "(20, [2, 4, 6, 8])"


def test_breakpoints_in_a_new_body(notebook, debugger):
    body = "seen = []\nfor i in range(4):\n    seen.append(i)\n    limits[i]\n"
    notebook.run("limits = [0, 1]")
    assert notebook.run("%%resilient\n" + body).error == "Suspended"
    edited = "%%resume\n" + body.replace(
        "limits[i]", "last = i * 10\n    seen[-1] = last"
    )
    debugger.breakpoints(edited, 4, 5, 6)
    stops = debugger.lines_until(notebook.send(edited), 5)
    assert [line for _, line in stops] == [5, 6, 4, 5, 6]
    assert notebook.run("seen").value == "[0, 1, 20, 30]"


def test_stepping_in_a_continuation_follows_the_users_lines(notebook, debugger):
    broken = "def work(x):\n    y = x + nothing\n    z = y * 2\n    return z\n"
    fixed = broken.replace("nothing", "1")
    notebook.run(broken)
    assert notebook.run("%%resilient\nfound = work(1)\n").error == "Suspended"
    debugger.breakpoints(fixed, 2)
    notebook.run(fixed)
    request = notebook.send("%resume")
    lines = []
    for _ in range(2):
        thread = debugger.wait_for_stop()["threadId"]
        lines.append(debugger.stack(thread)[0])
        debugger.ask("next", threadId=thread)
    lines += debugger.lines_until(request, 1)
    assert lines == [("work", 2), ("work", 3), ("work", 4)]
    assert notebook.run("found").value == "4"
