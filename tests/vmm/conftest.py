"""The processors that the emulator is compared with."""

from __future__ import annotations

from oracle.conftest import handlers, reference, trapgate16, trapgate32, trapgate64

__all__ = ["handlers", "reference", "trapgate16", "trapgate32", "trapgate64"]
