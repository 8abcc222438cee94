"""General-purpose instructions (APM vol. 3, 24594, chapter 3)."""

from trapgate.isa.general_purpose import (
    arithmetic,
    bits,
    control,
    flag_control,
    moves,
    multiply,
    rotate,
    stack,
    strings,
)

__all__ = ["arithmetic", "bits", "control", "flag_control", "moves", "multiply", "rotate", "stack", "strings"]
