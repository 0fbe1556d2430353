"""What each instruction does to a path of an abstract execution.

A step returns True when its path has ended. Steps are named after the opcodes; where
a meaning differs between 3.11, 3.12 and 3.13 the step says so.
"""

from gpurescue.recovery.handlers.steps import flow, operators, raising, variables
from gpurescue.recovery.handlers.steps.registry import STEPS

__all__ = ["STEPS", "flow", "operators", "raising", "variables"]
