"""The processors that the emulator is compared with."""

from oracle.conftest import handlers, reference, trapgate16, trapgate32, trapgate64

__all__ = ["handlers", "reference", "trapgate16", "trapgate32", "trapgate64"]
