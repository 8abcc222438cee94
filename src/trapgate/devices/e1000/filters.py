"""Which frames a card takes: by address, by multicast hash, by VLAN.

Source: SDM 3.2.1, 9.2 (VLAN filter), 13.5.
"""

from __future__ import annotations

from trapgate.devices.e1000 import registers as reg

BROADCAST = b"\xff" * 6
#: By RCTL.MO: how far the last two bytes of an address are shifted to give its 12 bits of hash (13.5.1).
HASH_SHIFTS = (4, 3, 2, 0)
#: RAH's address select (bits 16 and 17): of a frame's destination, of its source.
DESTINATION, SOURCE = 0, 1


class Filters:
    """The tables in `registers`. `forget()` when they have changed."""

    def __init__(self, registers: dict[int, int]) -> None:
        self._registers = registers
        self._exact: tuple[set[bytes], set[bytes]] | None = None

    def forget(self) -> None:
        """A receive address has changed."""
        self._exact = None

    def tag(self, frame: bytes) -> int | None:
        """The tag of a VLAN frame, else None."""
        if len(frame) >= 18 and int.from_bytes(frame[12:14], "big") == self._registers[reg.VET]:
            return int.from_bytes(frame[14:16], "big")
        return None

    def takes(self, frame: bytes, tag: int | None) -> bool:
        """Whether the frame is for this card."""
        return self._takes_address(frame) and self._takes_tag(tag)

    def is_inexact(self, frame: bytes) -> bool:
        """Whether the hash alone has let the frame in: software looks again (PIF, 3.2.3.1)."""
        return bool(frame[0] & 1) and frame[:6] != BROADCAST and frame[:6] not in self._addresses()[DESTINATION]

    def _takes_address(self, frame: bytes) -> bool:
        control, destination = self._registers[reg.RCTL], frame[:6]
        by_destination, by_source = self._addresses()
        if destination in by_destination or frame[6:12] in by_source:
            return True
        if destination == BROADCAST:
            return bool(control & (reg.RCTL_BAM | reg.RCTL_MPE))
        if not destination[0] & 1:
            return bool(control & reg.RCTL_UPE)
        if control & reg.RCTL_MPE:
            return True
        shift = HASH_SHIFTS[control >> reg.RCTL_MO_SHIFT & 3]
        value = (destination[5] << 8 | destination[4]) >> shift & 0xFFF
        return bool(self._registers[reg.MTA + 4 * (value >> 5)] >> (value & 31) & 1)

    def _addresses(self) -> tuple[set[bytes], set[bytes]]:
        """The sixteen exact ones: of destinations, of sources."""
        if self._exact is None:
            self._exact = found = (set[bytes](), set[bytes]())
            for place in range(reg.RA, reg.RA + 4 * reg.RA_WORDS, 8):
                low, high = self._registers[place], self._registers[place + 4]
                select = high >> 16 & 3
                if high & reg.RAH_VALID and select in (DESTINATION, SOURCE):
                    found[select].add((high << 32 | low).to_bytes(8, "little")[:6])
        return self._exact

    def _takes_tag(self, tag: int | None) -> bool:
        control = self._registers[reg.RCTL]
        if tag is None or not control & reg.RCTL_VFE:
            return True
        if control & reg.RCTL_CFIEN and bool(tag >> 12 & 1) != bool(control & reg.RCTL_CFI):
            return False
        identity = tag & 0xFFF
        return bool(self._registers[reg.VFTA + 4 * (identity >> 5)] >> (identity & 31) & 1)
