"""trapgate: an x86 hypervisor and the machine under it.

docs/index.md is a guide through the source in reading order.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
