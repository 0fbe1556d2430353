"""A crash report as HTML for a notebook and as text for a terminal."""

from gpurescue.diagnosis.panel.markup import frames_html, html, resumed_html
from gpurescue.diagnosis.panel.terminal import frames_text, resumed_text, text

__all__ = [
    "frames_html",
    "frames_text",
    "html",
    "resumed_html",
    "resumed_text",
    "text",
]
