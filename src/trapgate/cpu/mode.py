"""The mode that code runs in: all that decoding and generated code depend on besides the bytes themselves."""

from __future__ import annotations

from typing import NamedTuple

from trapgate.arch.registers import CS, DS, ES, SS


class DecodeMode(NamedTuple):
    """What the decoder needs to know. Equal modes decode equal bytes to equal forms."""

    #: 16, 32 or 64.
    bits: int
    #: "64", "32f", "16f" (base 0, limit 4 GB, writable), "32s", "16s" (checked).
    stack: str
    #: Bit n: segment n (ES, CS, SS, DS) has base 0 and no limit to check for reads and writes (CS: for reads).
    flat: int
    cpl: int
    real: bool
    virtual8086: bool
    #: CPL <= IOPL (or real mode): CLI, STI, IN and OUT need no look at the TSS.
    io_allowed: bool
    #: CR4.TSD keeps RDTSC from CPL 1 to 3.
    time_stamp_allowed: bool
    #: "" usable; "nm" CR0.TS or EM makes x87 raise #NM.
    x87: str
    #: "" usable; "nm", "ud".
    sse: str
    mmx: str
    #: FWAIT raises #NM (CR0.MP and TS).
    wait_nm: bool
    #: MXCSR unmasks some exception.
    simd_checked: bool = False
    #: DR7 enables instruction breakpoints.
    instruction_breakpoints: bool = False
    #: Native operations that Python must carry out because a guest's hypervisor intercepts them.
    intercepted: frozenset[str] = frozenset()
    #: A guest's kernel, translated to run at CPL 3: CLI, STI, PUSHF, POPF, SWAPGS work in place on its virtual state.
    deprivileged: bool = False

    def is_flat(self, segment: int) -> bool:
        """True when accesses through the segment need neither base nor limit."""
        return (self.bits == 64 and segment in (ES, CS, SS, DS)) or bool(self.flat >> segment & 1)


class Mode(NamedTuple):
    """A decode mode at a place: code of one mode at one CS base."""

    decode: DecodeMode
    #: Linear base of CS (0 in 64-bit mode).
    code_base: int
    #: Highest offset that may be fetched.
    code_limit: int
    #: Linear addresses of instruction breakpoints.
    breakpoints: tuple[int, ...] = ()

    @property
    def linear_mask(self) -> int:
        """The bits that linear addresses of its code have."""
        return (1 << 64) - 1 if self.decode.bits == 64 else 0xFFFF_FFFF


#: A mode that may come back: with the engine's code for it, MXCSR's masks, which are part of it and nobody's own, and
#: the engine's code at both privileges where native code goes from one to the other.
KeptMode = tuple[Mode, object, int, object] | None
