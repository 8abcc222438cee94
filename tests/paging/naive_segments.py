"""A naive second model of segment checks, written from the manual: AMD64 APM vol. 2, chapter 4, outside 64-bit mode."""

from __future__ import annotations

from dataclasses import dataclass

GP, SS_FAULT, NP = 13, 12, 11
DATA_SEGMENTS = ("es", "ds", "fs", "gs")


@dataclass(frozen=True)
class Descriptor:
    """A code or data segment descriptor (figure 4-13), `limit` as stored (20 bits)."""

    base: int
    limit: int
    type: int
    dpl: int = 0
    present: bool = True
    user: bool = True
    granularity: bool = False
    default_big: bool = True

    @property
    def is_code(self) -> bool:
        return bool(self.type & 8)

    @property
    def readable(self) -> bool:
        """Data segments always are; code segments by bit R."""
        return not self.is_code or bool(self.type & 2)

    @property
    def writable(self) -> bool:
        return not self.is_code and bool(self.type & 2)

    @property
    def conforming(self) -> bool:
        return self.is_code and bool(self.type & 4)

    @property
    def expand_down(self) -> bool:
        return not self.is_code and bool(self.type & 4)

    def scaled_limit(self) -> int:
        """The limit in bytes (4.7.1, granularity)."""
        return self.limit << 12 | 0xFFF if self.granularity else self.limit

    def encode(self) -> bytes:
        """The eight bytes as they stand in a descriptor table."""
        low = self.limit & 0xFFFF | (self.base & 0xFFFF) << 16
        high = self.base >> 16 & 0xFF | self.type << 8 | self.user << 12 | self.dpl << 13 | self.present << 15
        high |= self.limit & 0xF_0000 | self.default_big << 22 | self.granularity << 23 | self.base & 0xFF00_0000
        return low.to_bytes(4, "little") + high.to_bytes(4, "little")


def access_fault(descriptor: Descriptor, segment: str, offset: int, size: int, write: bool) -> tuple[int, int] | None:
    """(vector, error code) of an access at a 32-bit `offset`, or None where it is allowed (4.12)."""
    vector = SS_FAULT if segment == "ss" else GP
    # Rights are checked before limits, and raise #GP even in the stack segment.
    if write and not descriptor.writable:
        return (GP, 0)
    if not write and not descriptor.readable:
        return (GP, 0)
    limit, last = descriptor.scaled_limit(), offset + size - 1
    if descriptor.expand_down:
        # 4.12.2: valid offsets are above the limit, up to FFFFh or FFFF_FFFFh.
        upper = 0xFFFF_FFFF if descriptor.default_big else 0xFFFF
        allowed = offset > limit and last <= upper
    else:
        allowed = last <= limit
    return None if allowed else (vector, 0)


def load_fault(segment: str, selector: int, descriptor: Descriptor | None, cpl: int) -> tuple[int, int] | None:
    """(vector, error code) of loading a data or stack segment register in protected mode, or None (4.8.3, 4.11).

    `descriptor` is None where the selector lies outside its table. MOV and POP report the selector without its RPL.
    """
    error, rpl = selector & 0xFFFC, selector & 3
    if segment == "ss":
        if error == 0:
            return (GP, 0)
        if descriptor is None:
            return (GP, error)
        if rpl != cpl or not descriptor.user or not descriptor.writable or descriptor.dpl != cpl:
            return (GP, error)
        return None if descriptor.present else (SS_FAULT, error)
    if error == 0:
        return None  # a null selector loads; using it faults
    if descriptor is None or not descriptor.user or not descriptor.readable:
        return (GP, error)
    if not descriptor.conforming and (rpl > descriptor.dpl or cpl > descriptor.dpl):
        return (GP, error)
    return None if descriptor.present else (NP, error)
