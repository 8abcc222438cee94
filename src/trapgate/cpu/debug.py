"""Debug registers, single steps and alignment checks (APM vol. 2, 13.1; 8.2.17).

Instruction breakpoints are part of the mode of code: blocks end before them, and at them Python decides. Data
breakpoints and alignment checks send every data access through the slow path (cpu/access.py), which leaves an
instruction that hits a breakpoint to be run again by itself, so that the trap comes right after it. Nothing of this
costs anything while DR7 is clear.
"""

from __future__ import annotations

from trapgate.arch import layout, vectors
from trapgate.arch.breakpoints import DR6_BS, EXECUTE, PORT, READ_WRITE, enabled
from trapgate.arch.registers import AC, CR0_AM, CR4_DE, CS, RF, TF
from trapgate.cpu.access import WATCH_READ, WATCH_WRITE
from trapgate.cpu.branch_records import BranchRecords
from trapgate.cpu.faults import Fault

_M64 = (1 << 64) - 1

# DR6 (APM vol. 2, 13.1.1.3)
DR6_WRITABLE, DR6_ONES = 0xE00F, 0xFFFF_0FF0
# DR7 (13.1.1.4)
DR7_GD = 1 << 13
DR7_WRITABLE, DR7_ONES = 0xFFFF_2FFF, 0x400


class Debugging(BranchRecords):
    """Breakpoints, single steps and alignment checks."""

    #: Breakpoints that the current instruction has hit, besides those that native code has noted: bits 3:0 of DR6.
    debug_hits = 0
    #: (first, last, bit) of the enabled I/O breakpoints.
    port_breakpoints: tuple[tuple[int, int, int], ...] = ()
    #: Whether data breakpoints are enabled.
    watches_data = False
    #: AMD-V's global interrupt flag: while it is clear breakpoints are ignored (APM vol. 2, table 15-10).
    gif = True

    def reset(self) -> None:
        """The state after RESET#."""
        self.debug_hits = 0
        self.port_breakpoints = ()
        self.watches_data = False
        super().reset()

    # -- the registers

    def write_dr(self, number: int, value: int) -> None:
        """MOV DRn (13.1.1): DR6 and DR7 keep their fixed bits."""
        if number in (6, 7):
            if value >> 32:
                raise Fault(vectors.GP, 0)
            value = value & DR6_WRITABLE | DR6_ONES if number == 6 else value & DR7_WRITABLE | DR7_ONES
        self.dr[number] = value & _M64
        self.breakpoints_changed()

    def breakpoints_changed(self) -> None:
        """Work out from DR0 to DR3, DR7 and CR4.DE what is to be looked for."""
        dr7 = self.dr[7] if self.gif else 0
        instructions: set[int] = set()
        ports: list[tuple[int, int, int]] = []
        watches_data = False
        for i in range(4):
            self.state.set(layout.WATCHES + i * layout.WATCH_SIZE + layout.WATCH_KINDS, 0)
        for point in enabled(dr7, self.dr):
            if point.kind == EXECUTE:
                instructions.add(point.address)
            elif point.kind == PORT:
                if self.cr4 & CR4_DE:
                    ports.append((point.first & 0xFFFF, point.last & 0xFFFF, 1 << point.number))
            else:
                o = layout.WATCHES + point.number * layout.WATCH_SIZE
                self.state.set(o + layout.WATCH_FIRST, point.first)
                self.state.set(o + layout.WATCH_LAST, point.last)
                self.state.set(o + layout.WATCH_KINDS, WATCH_WRITE | (WATCH_READ if point.kind == READ_WRITE else 0))
                watches_data = True
        self.port_breakpoints = tuple(ports)
        self.watches_data = watches_data
        self.breakpoints = frozenset(instructions)
        self.mode_changed()

    def set_cr4(self, value: int) -> None:
        """CR4.DE says whether R/W = 10b means ports."""
        super().set_cr4(value)
        self.breakpoints_changed()

    def slow_access_path(self) -> bool:
        """Whether data accesses must take the slow path now; to be asked when the mode or RFLAGS.AC has changed."""
        q = self.q
        checked = self.cpl == 3 and bool(q[layout.SYSTEM_FLAGS >> 3] & AC and q[layout.CR0 >> 3] & CR0_AM)
        q[layout.ALIGNMENT_CHECK >> 3] = int(checked)
        slow = checked or self.watches_data
        q[layout.WATCH_DATA >> 3] = int(slow)
        return slow

    @property
    def traps_each_turn(self) -> bool:
        """Whether a repeated string instruction may raise #DB behind each of its turns."""
        flags = self.q[layout.SYSTEM_FLAGS >> 3]
        return bool(flags & TF or self.port_breakpoints or self.watches_data)

    # -- hits

    def instruction_hits(self, linear: int) -> int:
        """Bits of DR6 for the enabled instruction breakpoints at a linear address."""
        dr7, hits = self.dr[7], 0
        for i in range(4):
            if dr7 >> 2 * i & 3 and dr7 >> 16 + 4 * i & 3 == EXECUTE and self.dr[i] == linear:
                hits |= 1 << i
        return hits

    def instruction_breakpoint(self) -> None:
        """An instruction at a breakpoint is about to run: #DB, a fault, unless RF is set (13.1.2.1)."""
        linear = self.instruction_rip + (0 if self.bits == 64 else self.segments[CS].base)
        hits = self.instruction_hits(linear if self.bits == 64 else linear & 0xFFFF_FFFF)
        if hits and not self.q[layout.SYSTEM_FLAGS >> 3] & RF:
            self.dr[6] = self.dr[6] & ~0xF | hits
            raise Fault(vectors.DB)

    def take_hits(self) -> int:
        """The data and I/O breakpoints that the instruction just done has hit; none afterwards."""
        q = self.q
        hits = q[layout.WATCH_HITS >> 3] | self.debug_hits
        q[layout.WATCH_HITS >> 3] = 0
        self.debug_hits = 0
        return hits

    def debug_trap(self, hits: int, single_step: bool) -> Fault:
        """The #DB after an instruction, DR6 set."""
        self.dr[6] = self.dr[6] & ~0xF | hits | (DR6_BS if single_step else 0)
        return Fault(vectors.DB)

    def _note_access(self, linear: int, size: int, done: int) -> None:
        q = self.q
        for i in range(4):
            o = (layout.WATCHES + i * layout.WATCH_SIZE) >> 3
            if q[o + 2] & done and linear <= q[o + 1] and linear + size - 1 >= q[o]:
                self.debug_hits |= 1 << i

    # -- accesses by plain Python

    def read_segment(self, segment: int, offset: int, size: int) -> int:
        """Read through a segment at the current privilege."""
        if not self.q[layout.WATCH_DATA >> 3]:
            return super().read_segment(segment, offset, size)
        linear = self.segment_linear(segment, offset, size, False)
        value = self.read_linear(linear, size, self._user_access)
        self._check_alignment(linear, size)
        self._note_access(linear, size, WATCH_READ)
        return value

    def write_segment(self, segment: int, offset: int, size: int, value: int) -> None:
        """Write through a segment at the current privilege."""
        if self.q[layout.WATCH_DATA >> 3]:
            linear = self.segment_linear(segment, offset, size, True)
            if self.q[layout.ALIGNMENT_CHECK >> 3] and linear & (size - 1):
                self._parts(linear, size, self._user_access | 2)  # a page fault comes first
                self._check_alignment(linear, size)
            self._note_access(linear, size, WATCH_WRITE)
        super().write_segment(segment, offset, size, value)

    def _check_alignment(self, linear: int, size: int) -> None:
        required = size if size & (size - 1) == 0 else 8 if size == 10 else 4
        if self.q[layout.ALIGNMENT_CHECK >> 3] and linear & (required - 1):
            raise Fault(vectors.AC, 0)

    def read_port(self, port: int, size: int) -> int:
        """IN."""
        if self.port_breakpoints:
            self._note_port(port, size)
        return super().read_port(port, size)

    def write_port(self, port: int, size: int, value: int) -> None:
        """OUT."""
        if self.port_breakpoints:
            self._note_port(port, size)
        super().write_port(port, size, value)

    def _note_port(self, port: int, size: int) -> None:
        for first, last, bit in self.port_breakpoints:
            if port <= last and port + size - 1 >= first:
                self.debug_hits |= bit
