"""MSI-X: interrupts as messages, from a table that the guest fills.

Sources: PCI Local Bus Specification 3.0, 6.8.2; AMD64 manual volume 2, 16.11.1 (message address and data).
"""

from __future__ import annotations

from typing import ClassVar

from trapgate.devices.ioapic import UNMASKABLE, InterruptMessages
from trapgate.devices.pci.function import PciFunction
from trapgate.machine.device import PlainState

CAPABILITY = 0x11
SIZE = 4096
ENTRY = 16
PENDING = 0x800
MOST_VECTORS = PENDING // ENTRY

ENABLE = 0x8000
FUNCTION_MASK = 0x4000
MASKED = 1
#: Messages to local APICs are writes to FEExxxxxh.
APIC_PAGE = 0xFEE
LOGICAL = 1 << 2


class MsixTable(PlainState):
    """Table and pending bits of `function`, memory-mapped: entries from 0 on, pending bits at 800h."""

    STATE: ClassVar[tuple[str, ...]] = ("table", "pending")

    def __init__(self, function: PciFunction, bar: int, vectors: int, messages: InterruptMessages) -> None:
        self.name = f"{function.name}-msix"
        self._function, self._messages = function, messages
        self.vectors = vectors
        self.table = bytearray(ENTRY * vectors)
        self.pending = 0
        function.add_memory_bar(bar, SIZE, self)
        body = (vectors - 1).to_bytes(2, "little") + bar.to_bytes(4, "little") + (PENDING | bar).to_bytes(4, "little")
        self._control = function.add_capability(CAPABILITY, body, b"\0\xc0") + 2
        self.reset()

    def reset(self) -> None:
        """Every vector is masked."""
        self.pending = 0
        for vector in range(self.vectors):
            self.table[ENTRY * vector : ENTRY * (vector + 1)] = bytes(12) + bytes((MASKED, 0, 0, 0))

    @property
    def enabled(self) -> bool:
        """Whether messages take the place of INTx."""
        return bool(self._function.config.get(self._control, 2) & ENABLE)

    def _is_masked(self, vector: int) -> bool:
        control = self._function.config.get(self._control, 2)
        return bool(control & FUNCTION_MASK or self.table[ENTRY * vector + 12] & MASKED)

    def send(self, vector: int) -> None:
        """Interrupt by `vector`, now or when it is unmasked."""
        if not self.enabled or vector >= self.vectors:
            return
        if self._is_masked(vector):
            self.pending |= 1 << vector
            return
        entry = self.table[ENTRY * vector : ENTRY * vector + 12]
        address, data = int.from_bytes(entry[:8], "little"), int.from_bytes(entry[8:], "little")
        if address >> 20 != APIC_PAGE:
            self._function.faults["message to no local APIC"] += 1
            return
        self._messages.receive(address >> 12 & 0xFF, bool(address & LOGICAL), data >> 8 & 7, data & 0xFF, False)

    def update(self) -> None:
        """A mask may have gone: send what waits."""
        for vector in range(self.vectors):
            if self.pending >> vector & 1 and self.enabled and not self._is_masked(vector):
                self.pending &= ~(1 << vector)
                self.send(vector)

    def sends_unmaskable(self) -> bool:
        """Whether an open vector is NMI, SMI or INIT."""
        return self.enabled and any(
            not self._is_masked(vector) and self.table[ENTRY * vector + 9] & 7 in UNMASKABLE
            for vector in range(self.vectors)
        )

    # Access

    def read_memory(self, offset: int, width: int) -> int:
        """Entries and pending bits; the rest reads 0."""
        if offset < PENDING:
            return int.from_bytes(self.table[offset : offset + width], "little")
        bits = self.pending.to_bytes(MOST_VECTORS // 8, "little")
        return int.from_bytes(bits[offset - PENDING : offset - PENDING + width], "little")

    def write_memory(self, offset: int, width: int, value: int) -> None:
        """Entries; pending bits are for reading."""
        end = min(offset + width, len(self.table))
        if offset < end:
            self.table[offset:end] = value.to_bytes(width, "little")[: end - offset]
            self.update()
