"""Who up the live stack will handle an exception, asked before anything unwinds."""

from gpurescue.recovery.handlers.course import forget, is_on_course
from gpurescue.recovery.handlers.shapes import guarding_block
from gpurescue.recovery.handlers.tables import depth_at
from gpurescue.recovery.handlers.values import available
from gpurescue.recovery.handlers.walk import Fate, fate

__all__ = [
    "Fate",
    "available",
    "depth_at",
    "fate",
    "forget",
    "guarding_block",
    "is_on_course",
]
