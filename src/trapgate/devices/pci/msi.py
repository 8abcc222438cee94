"""MSI: interrupts as messages, from registers in configuration space, each vector with a mask of its own.

Sources: PCI Local Bus Specification 3.0, 6.8.1; AMD64 manual volume 2, 16.11.1 (message address and data).
"""

from __future__ import annotations

from trapgate.devices.ioapic import UNMASKABLE, InterruptMessages
from trapgate.devices.pci.function import PciFunction
from trapgate.devices.pci.msix import APIC_PAGE, LOGICAL

CAPABILITY = 0x05
# Offsets in the capability: 64-bit address, with masks.
CONTROL, ADDRESS, DATA, MASK, PENDING = 2, 4, 12, 16, 20
ENABLE = 1 << 0
WIDE_ADDRESS, VECTOR_MASKS = 1 << 7, 1 << 8
MOST_VECTORS = 32


class MsiCapability:
    """The capability of `function`, with `vectors` (a power of two, 1 to 32). All of its state is configuration space.

    The function calls `update` after each write to its configuration space.
    """

    def __init__(self, function: PciFunction, vectors: int, messages: InterruptMessages) -> None:
        self._function, self._messages, self.vectors = function, messages, vectors
        capable = vectors.bit_length() - 1
        control = WIDE_ADDRESS | VECTOR_MASKS | capable << 1
        body = control.to_bytes(2, "little") + bytes(20)
        masks = ((1 << vectors) - 1).to_bytes(4, "little")
        writable = bytes((0x71, 0)) + b"\xfc\xff\xff\xff" + b"\xff" * 4 + b"\xff\xff\0\0" + masks + bytes(4)
        self._place = function.add_capability(CAPABILITY, body, writable)

    def _get(self, offset: int, width: int) -> int:
        return self._function.config.get(self._place + offset, width)

    @property
    def enabled(self) -> bool:
        """Whether messages take the place of INTx."""
        return bool(self._get(CONTROL, 2) & ENABLE)

    @property
    def allowed(self) -> int:
        """How many vectors the guest lets the function use: never more than it has."""
        return min(1 << (self._get(CONTROL, 2) >> 4 & 7), self.vectors)

    def send(self, vector: int) -> None:
        """Interrupt by `vector`, now or when it is unmasked. One above those that are allowed shares the last."""
        if not self.enabled:
            return
        vector = min(vector, self.allowed - 1)
        if self._get(MASK, 4) >> vector & 1:
            self._function.config.put(self._place + PENDING, 4, self._get(PENDING, 4) | 1 << vector)
            return
        address, data = self._get(ADDRESS, 8), self._data(vector)
        if address >> 20 != APIC_PAGE:
            self._function.faults["message to no local APIC"] += 1
            return
        self._messages.receive(address >> 12 & 0xFF, bool(address & LOGICAL), data >> 8 & 7, data & 0xFF, False)

    def _data(self, vector: int) -> int:
        """The message: the low bits of its data are the vector's number (6.8.1.6)."""
        return self._get(DATA, 2) & ~(self.allowed - 1) | vector

    def update(self) -> None:
        """A mask may have gone: send what waits."""
        waiting = self._get(PENDING, 4) & ~self._get(MASK, 4) if self.enabled else 0
        for vector in range(self.vectors):
            if waiting >> vector & 1:
                self._function.config.put(self._place + PENDING, 4, self._get(PENDING, 4) & ~(1 << vector))
                self.send(vector)

    def sends_unmaskable(self) -> bool:
        """Whether an open vector is NMI, SMI or INIT."""
        open_ = ~self._get(MASK, 4) & (1 << self.allowed) - 1
        return self.enabled and bool(open_) and self._get(DATA, 2) >> 8 & 7 in UNMASKABLE
