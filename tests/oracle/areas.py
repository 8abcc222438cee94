"""Where test code and data lie, and how a processor's state is packed, the same for every processor compared.

All addresses are below 2 GiB, so that 32-bit addressing and absolute operands reach them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

PAGE = 4096

#: Instructions under test: one slot each, readable, writable and executable.
SLOTS = 0x2010_0000
SLOT_SIZE = 256
#: Where the instruction starts in its slot: relative branches reach both ways without leaving it.
SLOT_START = 96
SLOT_COUNT = 1024

#: A page that may be read only, filled by `read_only_bytes`.
READ_ONLY = 0x2020_0000
#: The page whose end is the window that tests look at.
DATA = READ_ONLY + PAGE
WINDOW_SIZE = 1024
WINDOW = DATA + PAGE - WINDOW_SIZE
#: The first address after the window is not mapped.
UNMAPPED = DATA + PAGE

#: Base of GS: such operands differ from others by it.
GS_BASE = 0x1234_5678
#: Selectors as Linux gives them to a 64-bit process.
USER_CODE, USER_DATA, USER_CODE_32 = 0x33, 0x2B, 0x23

INT3 = 0xCC
#: MXCSR after reset: every exception masked, round to nearest.
MXCSR_RESET = 0x1F80

# Offsets in the FXSAVE image (APM vol. 2, figure 11-9, 64-bit FXSAVE format).
FX_SIZE = 512
FX_CONTROL, FX_STATUS, FX_TAG, FX_OPCODE, FX_IP, FX_DP, FX_MXCSR, FX_MXCSR_MASK = 0, 2, 4, 6, 8, 16, 24, 28
FX_ST = 32
FX_XMM = 160


@dataclass(frozen=True)
class Places:
    """Where the pages of a test lie in one mode."""

    slots: int
    slot_count: int
    read_only: int
    #: Whether accesses may leave the window on purpose.
    faults: bool

    @property
    def window(self) -> int:
        return self.read_only + 2 * PAGE - WINDOW_SIZE

    @property
    def unmapped(self) -> int:
        return self.read_only + 2 * PAGE


#: What Unicorn runs has everything below 64 KiB, within the reach of 16-bit offsets.
PLACES = {
    "long64": Places(SLOTS, SLOT_COUNT, READ_ONLY, True),
    "compat32": Places(SLOTS, SLOT_COUNT, READ_ONLY, True),
    "protected32": Places(0x4000, 128, 0xC000, True),
    "real16": Places(0x4000, 64, 0x8000, False),
}

#: Size of code in each mode: 64-bit and 32-bit (compatibility mode) user code of a 64-bit system, which the host can
#: run; 32-bit protected mode and real mode, which Unicorn can.
BITS = {"long64": 64, "compat32": 32, "protected32": 32, "real16": 16}


def slot_address(number: int, mode: str = "long64") -> int:
    """Address of the instruction of case `number` of a batch."""
    return PLACES[mode].slots + number * SLOT_SIZE + SLOT_START


@cache
def read_only_bytes() -> bytes:
    """What the read-only page holds: a fixed pattern without repeats of any power of two."""
    return bytes((i * 7 + (i >> 8) * 13 + 1) & 0xFF for i in range(PAGE))


@dataclass
class State:
    """Registers and memory before or after an instruction. `fx` is a 512-byte FXSAVE64 image."""

    gpr: list[int]
    rflags: int
    fx: bytes
    window: bytes
    rip: int = 0


@dataclass
class Outcome:
    """What an instruction did: the state afterwards, and the exception it raised (vector -1: none).

    `address` is CR2 of a page fault (0 for others).
    """

    state: State
    vector: int = -1
    error: int = 0
    address: int = 0
    #: Of an exception, this reference knows the vector alone.
    vector_only: bool = False


@dataclass
class Case:
    """One instruction and the state it starts in. `state.rip` is its first byte's address."""

    code: bytes
    state: State
    mode: str = "long64"
    text: str = ""
    #: A string instruction with REP: several turns.
    repeats: bool = False

    #: Arithmetic flags (RFLAGS bits) that the manuals leave undefined here.
    undefined_flags: int = 0
    #: Registers (number, bits) whose contents the manuals leave undefined here.
    undefined_registers: dict[int, int] = field(default_factory=dict)
    #: The same for XMM registers.
    undefined_xmm: dict[int, int] = field(default_factory=dict)
    #: Where in the window the memory operand lies; -1: there is none.
    operand_offset: int = -1
    #: Bytes of the window (offset, length) that are not compared.
    ignored_memory: tuple[tuple[int, int], ...] = ()
    #: The form's name and the seed: they make the same case again.
    form: str = ""
    seed: int = 0

    @property
    def bits(self) -> int:
        """Size of the code: 16, 32 or 64."""
        return BITS[self.mode]

    @property
    def no_turns(self) -> bool:
        """A repeated instruction whose count (of 32 bits or less) is 0."""
        return self.repeats and self.state.gpr[1] & 0xFFFF_FFFF == 0
