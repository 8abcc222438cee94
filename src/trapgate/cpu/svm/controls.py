"""The control area of a VMCB as VMRUN reads it (APM vol. 2, appendix B, table B-1)."""

from __future__ import annotations

import struct

from trapgate.arch import vmcb

_INTERCEPTS = struct.Struct("<IIIII")
_FILTER = struct.Struct("<HHQQQIBxxxQ")
_EVENT = struct.Struct("<QQB")


class Controls:
    """What a guest's VMCB asks for, while the guest runs."""

    __slots__ = (
        "asid", "cr", "dr", "eventinj", "exceptions", "iopm", "lbr_virtualization", "misc1",
        "misc2", "msrpm", "n_cr3", "natives", "nested", "pause_count", "pause_threshold", "tlb_control", "tsc_offset",
        "v_intr_masking", "v_irq", "v_word",
    )  # fmt: skip

    v_word: int
    #: The native operations that are intercepted, once somebody has asked.
    natives: frozenset[str] | None

    def __init__(self, ram: memoryview, place: int, features: frozenset[str]) -> None:
        """`features` are those of arch/vmcb.py; fields of others are not looked at."""
        self.cr, self.dr, self.exceptions, self.misc1, self.misc2 = _INTERCEPTS.unpack_from(ram, place)
        (
            self.pause_threshold, self.pause_count, self.iopm, self.msrpm, self.tsc_offset, self.asid,
            self.tlb_control, self.v_word,
        ) = _FILTER.unpack_from(ram, place + vmcb.PAUSE_FILTER_THRESHOLD)  # fmt: skip
        self.natives = None
        self.nested = "NP" in features and bool(ram[place + vmcb.NESTED_CONTROL] & 1)
        self.eventinj, self.n_cr3, lbr = _EVENT.unpack_from(ram, place + vmcb.EVENTINJ)
        self.lbr_virtualization = "LBR_VIRT" in features and bool(lbr & 1)
        self.v_irq = bool(self.v_word & vmcb.V_IRQ)
        self.v_intr_masking = bool(self.v_word & vmcb.V_INTR_MASKING)

    @property
    def v_tpr(self) -> int:
        """The virtual task priority, 8 bits; its low 4 bits are CR8."""
        return self.v_word & vmcb.V_TPR_MASK

    @v_tpr.setter
    def v_tpr(self, value: int) -> None:
        self.v_word = self.v_word & ~vmcb.V_TPR_MASK | value & vmcb.V_TPR_MASK

    @property
    def v_vector(self) -> int:
        """The virtual interrupt's vector."""
        return self.v_word >> vmcb.V_VECTOR_SHIFT & 0xFF

    def v_irq_passes(self) -> bool:
        """Whether the virtual interrupt's priority is above V_TPR, or V_IGN_TPR ignores that (15.21.4)."""
        word = self.v_word
        return bool(word & vmcb.V_IGNORE_TPR) or word >> vmcb.V_PRIORITY_SHIFT & 0xF > word & 0xF
