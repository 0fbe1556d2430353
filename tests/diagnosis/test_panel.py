import dataclasses
import html.parser
import re

import pytest

from gpurescue.diagnosis import panel
from gpurescue.diagnosis.excerpt import SourceLine
from gpurescue.diagnosis.hints import Hint
from gpurescue.diagnosis.panel.escape import markup, one_line, plain
from gpurescue.diagnosis.panel.highlight import highlight
from gpurescue.diagnosis.report import CrashReport, FrameReport, VariableReport
from gpurescue.diagnosis.result import Kind, Summary

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;"
    "\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m\x9b5m\r\x08\x00\u202egnp\u2066\ud800\n"
    "</pre></details></style>next"
)


def variable(name, text, *, used=False, warning=""):
    summary = Summary(kind=Kind.TENSOR, text=text, warning=warning)
    return VariableReport(name=name, summary=summary, is_used_in_failing_statement=used)


def lines(first, source, failing, statement=()):
    return tuple(
        SourceLine(
            number=number,
            text=text,
            is_failing=number == failing,
            is_in_statement=number in {failing, *statement},
        )
        for number, text in enumerate(source.split("\n"), first)
    )


FORWARD = '''\
    def forward(self, x):
        """Return "logits"."""
        x = self.conv(x)  # 3 < 4
        x = self.fc(
            x.flatten(1),
        )
        return x'''

NET = FrameReport(
    index=0,
    name="Net.forward",
    label="Cell In[3]",
    line=12,
    lines=lines(9, FORWARD, 12, (13, 14)),
    variables=(
        variable("self", "Net, 10,442 parameters, on cpu, train mode", used=True),
        variable(
            "x", "tensor [32, 256] float32 cpu, min 0", used=True, warning="3 NaN"
        ),
        variable("noise", "None"),
    ),
)
CELL = FrameReport(
    index=1,
    name="<module>",
    label="Cell In[5]",
    line=3,
    lines=lines(2, "for batch in loader:\n    loss = net(batch)", 3),
    variables=(variable("batch", "tensor [32, 1, 8, 8] float32 cpu", used=True),),
    num_more_variables=1,
)
CRASH = CrashReport(
    run_number=1,
    error_type="RuntimeError",
    message="mat1 and mat2 shapes cannot be multiplied\n(32x256 and 1024x10)",
    where="epoch 2/3, step 17/57",
    frames=(NET, CELL),
    num_frames=2,
    traceback_text="Traceback (most recent call last):\n  ...\nRuntimeError: mat1\n",
    hints=(
        Hint(command="%fix Net.forward", purpose="get its code in a new cell"),
        Hint(command="Edit this cell", purpose="go on", is_gesture=True),
    ),
)


def test_golden_html(golden):
    golden("panel.html", panel.html(CRASH) + "\n")
    golden("frames.html", panel.frames_html(CRASH) + "\n")
    golden("resumed.html", panel.resumed_html(CRASH, "resumes at line 12: `x`") + "\n")


def test_golden_text(golden):
    golden("panel.txt", panel.text(CRASH, color=False) + "\n")
    golden("frames.txt", panel.frames_text(CRASH, color=False) + "\n")
    golden("resumed.txt", panel.resumed_text(CRASH, "resumes at line 12: `x`") + "\n")


def test_one_frame_of_many_has_no_gap_before_it():
    crash = dataclasses.replace(CRASH, frames=(CELL,), num_frames=1)
    assert "more ..." not in panel.frames_html(crash)
    assert panel.frames_text(crash, color=False).startswith("1: the cell's own code")


def test_color_is_bold_type_only():
    colored = panel.text(CRASH, color=True)
    assert re.sub(r"\x1b\[[01]m", "", colored) == panel.text(CRASH, color=False)
    assert "\x1b[1mRuntimeError\x1b[0m" in colored


def hostile():
    frame = FrameReport(
        index=0,
        name=HOSTILE,
        label=HOSTILE,
        line=1,
        lines=(SourceLine(number=1, text=HOSTILE.replace("\n", " "), is_failing=True),),
        variables=(variable(HOSTILE, HOSTILE, used=True, warning=HOSTILE),) * 9,
    )
    return CrashReport(
        run_number=1,
        error_type=HOSTILE,
        message=HOSTILE * 200,
        where=HOSTILE,
        frames=(frame, frame),
        num_frames=3,
        traceback_text=HOSTILE,
        hints=(Hint(command=HOSTILE, purpose=HOSTILE),),
    )


class Elements(html.parser.HTMLParser):
    """Every element that a browser would see, and whether they are balanced."""

    def __init__(self, page):
        super().__init__()
        self.open, self.names, self.attributes = [], set(), set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


PAGES = [
    panel.html,
    panel.frames_html,
    lambda crash: panel.resumed_html(crash, HOSTILE),
]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("crash", [CRASH, hostile()])
def test_html_holds_only_our_own_elements(page, crash):
    text = page(crash)
    seen = Elements(text)
    assert seen.open == []
    known = "div style p strong code pre span details summary table tbody tr td"
    assert seen.names <= set(known.split())
    assert seen.attributes <= {"class", "open", "colspan", "style"}
    assert not re.search(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text
    )
    assert "url(" not in text
    assert "http" not in text
    text.encode()


def test_text_cannot_drive_a_terminal():
    crash = hostile()
    pages = [
        panel.text(crash, color=False),
        panel.frames_text(crash, color=False),
        panel.resumed_text(crash, HOSTILE),
    ]
    for text in pages:
        assert not re.search(
            r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]", text
        )
        text.encode()
    assert (
        r"\x1b]0;title\x07\x1b[2Jred\x9b5m\x0d\x08\x00\u202egnp\u2066\ud800" in pages[0]
    )


def test_a_panel_is_bounded_whatever_is_in_it():
    many = (variable("n" * 80, "&" * 200, used=True),) * 30
    frame = FrameReport(
        index=0,
        name="&" * 200,
        label="&" * 200,
        line=1,
        lines=lines(1, "\n".join(["'&" * 200] * 25), 1),
        variables=many,
    )
    crash = CrashReport(
        run_number=1,
        error_type="&" * 80,
        message="&" * 20_000,
        where="&" * 200,
        frames=(frame,) * 15,
        num_frames=1000,
        traceback_text="&" * 20_000,
        hints=(),
    )
    assert len(panel.html(crash)) < 200_000
    assert len(panel.frames_html(crash)) < 200_000
    Elements(panel.html(crash))


def test_the_stripped_panel_still_reads_in_order():
    bare = re.sub(r"<style>.*?</style>", "", panel.html(CRASH), flags=re.DOTALL)
    bare = re.sub(r"<[^>]+>", "", bare)
    order = [
        "RuntimeError",
        "is alive",
        "&#9654;&#xFE0E; 12",
        "10,442",
        "Stack",
        "What next",
    ]
    assert [bare.index(word) for word in order] == sorted(map(bare.index, order))
    assert "\n  11          x = self.conv(x)  # 3 &lt; 4\n" in bare


def test_a_long_message_is_folded():
    crash = dataclasses.replace(
        CRASH, message="m" * 5000, where="", frames=(CELL,), num_frames=1
    )
    crash = dataclasses.replace(crash, traceback_text="", hints=())
    page, text = panel.html(crash), panel.text(crash, color=False)
    assert "Rest of the message" in page
    assert "Full traceback" not in page
    assert "Stack" not in page
    assert "(3,000 more characters)" in text
    assert "waiting in the cell's own code (Cell In[5], line 3)" in text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1", 'x = <span class="gr-n">1</span>'),
        ("a.match(in_b)", "a.match(in_b)"),
        ("if not x:", '<span class="gr-k">if</span> <span class="gr-k">not</span> x:'),
        ("def f(", '<span class="gr-k">def</span> <span class="gr-d">f</span>('),
        ("# a 'b", '<span class="gr-c"># a \'b</span>'),
        ('rb"a\\"b" x', '<span class="gr-s">rb&quot;a\\&quot;b&quot;</span> x'),
        ("'open", '<span class="gr-s">\'open</span>'),
        (
            "print(None)",
            '<span class="gr-b">print</span>(<span class="gr-n">None</span>)',
        ),
        ("@a.b", '<span class="gr-d">@a.b</span>'),
        ("a @ b<c", "a @ b&lt;c"),
        ("1e-3+0x1F", '<span class="gr-n">1e-3</span>+<span class="gr-n">0x1F</span>'),
        ("v2", "v2"),
    ],
)
def test_highlight(source, expected):
    assert highlight(source) == [expected]


def test_highlight_balances_every_line():
    found = highlight('x = """a\nb\n\nc')
    start = '<span class="gr-s">'
    pieces = ("&quot;&quot;&quot;a", "b", "", "c")
    lines = [f"{start}{piece}</span>" for piece in pieces]
    assert found == ["x = " + lines[0], *lines[1:]]


def test_highlight_is_linear():
    for piece in ('"', "'''", "\\", "@a.", "1e", "def ", "r'", '"""\\'):
        assert "".join(highlight(piece * 20_000))


def test_escape():
    assert plain("a\tb\r\nc\x1b[1;31md\x1b[m") == "a\tb\ncd"
    assert plain("\u200d\u0645\u200c") == "\u200d\u0645\u200c"
    assert one_line("a\nb\tc") == "a\\nb c"
    assert markup('<a href="x">&') == "&lt;a href=&quot;x&quot;&gt;&amp;"
