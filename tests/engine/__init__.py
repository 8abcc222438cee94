"""The engine: code that changes, exact counts and faults, modes, determinism."""
