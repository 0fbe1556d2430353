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
