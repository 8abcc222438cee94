"""trapgate: an x86 hypervisor and the machine under it.

docs/index.md is a guide through the source in reading order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trapgate.api import Machine

__all__ = ["Machine", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The machine is imported when it is first used: LLVM takes its time."""
    if name == "Machine":
        from trapgate.api import Machine

        return Machine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
