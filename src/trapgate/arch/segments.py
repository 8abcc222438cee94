"""Segment descriptors (APM vol. 2, 4.7 and 4.8)."""

from __future__ import annotations

# Attributes as SegmentRegister keeps them.
ATTRIBUTE_A = 1 << 0  # accessed (code and data)
ATTRIBUTE_RW = 1 << 1  # readable (code), writable (data)
ATTRIBUTE_DC = 1 << 2  # conforming (code), expand-down (data)
ATTRIBUTE_CODE = 1 << 3
ATTRIBUTE_S = 1 << 4  # code or data, not system
ATTRIBUTE_DPL = 3 << 5
DPL_SHIFT = 5
ATTRIBUTE_P = 1 << 7
ATTRIBUTE_AVL = 1 << 8
ATTRIBUTE_L = 1 << 9
ATTRIBUTE_DB = 1 << 10
ATTRIBUTE_G = 1 << 11

TYPE_MASK = 0x1F  # type and S

# System descriptor types (S = 0)
TSS16_AVAILABLE, LDT, TSS16_BUSY, CALL_GATE16, TASK_GATE, INTERRUPT_GATE16, TRAP_GATE16 = 1, 2, 3, 4, 5, 6, 7
TSS32_AVAILABLE, TSS32_BUSY, CALL_GATE32, INTERRUPT_GATE32, TRAP_GATE32 = 9, 11, 12, 14, 15

DATA_RW_ACCESSED = ATTRIBUTE_P | ATTRIBUTE_S | ATTRIBUTE_RW | ATTRIBUTE_A
CODE_ACCESSED = DATA_RW_ACCESSED | ATTRIBUTE_CODE
#: CS in real mode and SMM: no type is checked there, so code can be written through CS (APM vol. 2, 4.5.1; Intel SDM
#: vol. 3, "8086 Emulation": segments are read, written and executed alike).
REAL_CODE = DATA_RW_ACCESSED


def attributes_of(descriptor: int) -> int:
    """Attributes of an 8-byte descriptor."""
    return descriptor >> 40 & 0xFF | (descriptor >> 52 & 0xF) << 8


def base_of(descriptor: int) -> int:
    """32-bit base of an 8-byte descriptor."""
    return descriptor >> 16 & 0xFF_FFFF | (descriptor >> 56 & 0xFF) << 24


def limit_of(descriptor: int) -> int:
    """Limit in bytes, scaled by 4096 where G is set."""
    limit = descriptor & 0xFFFF | (descriptor >> 48 & 0xF) << 16
    return limit << 12 | 0xFFF if descriptor >> 55 & 1 else limit
