"""What the user can get wrong about a network of the host. Each message: what was wanted, what was got, what to do."""

from __future__ import annotations

from trapgate.machine.errors import MachineError


class NetworkError(MachineError):
    """Base of the reasons why a network cannot be had here."""

    def __init__(self, wanted: str, got: str, remedy: str) -> None:
        super().__init__(f"wanted {wanted}, got {got}: {remedy}")


def reason(error: OSError) -> str:
    """What the host says, in its words."""
    return (error.strerror or str(error) or type(error).__name__).lower()
