"""x87 floating-point instructions (APM vol. 5, 26569, chapter 2)."""

from trapgate.isa.x87 import arithmetic, cold, compare, control, environment, moves, transcendental

__all__ = ["arithmetic", "cold", "compare", "control", "environment", "moves", "transcendental"]
