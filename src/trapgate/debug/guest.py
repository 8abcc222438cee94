"""A guest as a debugger sees it: registers, memory by both kinds of addresses, its board. Looking changes nothing.

Where it runs on the bare machine these are the processor's. Under a technique the processor's registers are the guest's
while it runs there (`VirtualGuest.inside`), and the VMCB has them between an exit and the next entry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from trapgate.arch.registers import CR0_PE, CR0_PG, CS, GPR_NAMES, RFLAGS_ONE, SEGMENT_NAMES, VM
from trapgate.boards.machine import BareMachine
from trapgate.boards.pc import Pc
from trapgate.cpu.core import is_canonical
from trapgate.cpu.faults import Fault
from trapgate.debug.errors import GuestUnreachable
from trapgate.debug.paging import Paging
from trapgate.engine.processor import Processor
from trapgate.lab import snapshots
from trapgate.lab.snapshots import Machine, MachineState
from trapgate.machine.clock import Clock
from trapgate.machine.control import DebugStop, StopRequest
from trapgate.machine.outside import Outside
from trapgate.machine.ram import Ram

PAGE = 4096
_M32, _M64 = 0xFFFF_FFFF, (1 << 64) - 1


class SegmentView(NamedTuple):
    """A segment register with its hidden part; `limit` in bytes, `attributes` as in a VMCB."""

    selector: int
    base: int
    limit: int
    attributes: int


class Guest(ABC):
    """One guest that has been stopped, or is about to be. Values are unsigned; addresses are in bytes."""

    #: How it is virtualized.
    technique = "bare"

    def __init__(self, processor: Processor, memory: Ram, board: Pc, clock: Clock, outside: Outside) -> None:
        #: The processor that runs it: the machine's, or its host's.
        self.processor = processor
        #: RAM by guest-physical address.
        self.memory = memory
        self.board, self.clock, self.outside = board, clock, outside

    # -- running

    @property
    @abstractmethod
    def instructions(self) -> int:
        """Instructions that the guest has carried out."""

    @property
    @abstractmethod
    def request(self) -> StopRequest | None:
        """Why the run must end, or stop."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Have the run stop between two instructions, soon. It goes on afterwards as if nothing had been."""

    @abstractmethod
    def forget_stop(self) -> None:
        """The stop that was asked for has come."""

    @abstractmethod
    def end(self, request: StopRequest) -> None:
        """End the run."""

    #: Whether a limit stops it where its state can be taken; else the hypervisor's loop pauses between two entries.
    pauses_by_limit = True
    _end: int | None = None
    _stop_at: int | None = None

    def stop_at(self, instructions: int | None) -> None:
        """Stop the guest where it has come to so many instructions, if not before; None: nowhere."""
        self._stop_at = instructions

    @property
    def cycle(self) -> int:
        """The modelled cycle to which it has come."""
        return self.clock.now + self.processor.charged

    #: Nothing of a hypervisor's loop is on the stack.
    at_top = True

    @property
    def can_take(self) -> bool:
        """Whether its state can be taken where it stands."""
        return True

    @property
    def can_put(self) -> bool:
        """Whether another one can be put."""
        return True

    @abstractmethod
    def ask_to_pause(self) -> None:
        """Have the run stop where the guest's state can be taken, when it goes on."""

    @property
    @abstractmethod
    def machine(self) -> Machine:
        """The machine whose state is taken and put."""

    def take(self, like: MachineState | None) -> MachineState:
        """The machine's state; what has not changed since `like` is shared. Raises SnapshotError, BlockError."""
        return snapshots.take(self.machine, like)

    def put(self, state: MachineState) -> None:
        """Make the machine what it was. Raises what snapshots.put raises; then nothing has changed."""
        snapshots.put(self.machine, state)
        self.processor.stop_again()

    def limit_to(self, end: int | None) -> None:
        """The run ends at so many instructions."""
        self._end = end

    @property
    def limit(self) -> int | None:
        """Instructions at which it is to be stopped next."""
        return min((limit for limit in (self._end, self._stop_at) if limit is not None), default=None)

    @property
    def at_end(self) -> bool:
        """Whether the run's end has come."""
        return self._end is not None and self.instructions >= self._end

    @property
    def progress(self) -> tuple[int, ...]:
        """What changes with each instruction, exception and turn of a repeated instruction."""
        p = self.processor
        return self.instructions, self.rip, p.q[1], sum(p.exception_counts.values()), self.rflags

    @abstractmethod
    def when_emulated(self, call: Callable[[], None]) -> None:
        """Have `call` called when a hypervisor has carried out one of the guest's instructions."""

    # -- registers

    def gpr(self, number: int) -> int:
        """A general register by its number, 64 bits."""
        return self.processor.q[number]

    def set_gpr(self, number: int, value: int) -> None:
        """Write one."""
        self.processor.q[number] = value & _M64

    @property
    def rip(self) -> int:
        """Offset of the next instruction in the code segment."""
        return self.processor.rip

    def set_rip(self, value: int) -> None:
        """Go on there."""
        self.processor.set_rip(value)

    @property
    def rflags(self) -> int:
        """RFLAGS."""
        return self.processor.rflags

    def set_rflags(self, value: int) -> None:
        """Write RFLAGS."""
        self.processor.rflags = value & _M32 | RFLAGS_ONE
        self.processor.mode_changed()

    @property
    def cpl(self) -> int:
        """Current privilege level."""
        return self.processor.cpl

    @property
    def bits(self) -> int:
        """16, 32 or 64: the code segment's size."""
        return self.processor.bits

    def control(self, number: int) -> int:
        """CR0, CR2, CR3, CR4 or CR8 as the guest sees it."""
        p = self.processor
        if number == 8:
            return self.board.lapic.read_cr8()
        return {0: p.cr0, 2: p.cr2, 3: p.cr3, 4: p.cr4}[number]

    @property
    def efer(self) -> int:
        """EFER as the guest sees it."""
        return self.processor.efer

    @abstractmethod
    def set_control(self, name: str, value: int) -> None:
        """Write cr0, cr2, cr3, cr4, cr8 or efer as the instruction does. Raises GuestUnreachable."""

    def segment(self, number: int) -> SegmentView:
        """A segment register by its number (arch/registers.py)."""
        s = self.processor.segments[number]
        return SegmentView(s.selector, s.base, s.limit, s.attributes)

    def system_segment(self, name: str) -> SegmentView:
        """LDTR or TR."""
        s = getattr(self.processor, name)
        return SegmentView(s.selector, s.base, s.limit, s.attributes)

    def table(self, name: str) -> tuple[int, int]:
        """(base, limit) of GDTR or IDTR."""
        p = self.processor
        return (p.gdtr_base, p.gdtr_limit) if name == "gdtr" else (p.idtr_base, p.idtr_limit)

    def debug_register(self, number: int) -> int:
        """DR0 to DR3, DR6, DR7."""
        return self.processor.dr[number]

    def set_segment_base(self, number: int, value: int) -> None:
        """Write the base of FS or GS."""
        s = self.processor.segments[number]
        s.load(s.selector, value, s.limit, s.attributes)
        self.processor.mode_changed()

    def set_selector(self, number: int, value: int) -> None:
        """Load a segment register, where that needs no descriptor. Raises GuestUnreachable."""
        if self.control(0) & CR0_PE and not self.rflags & VM:
            raise GuestUnreachable("a selector cannot be changed in protected mode")
        s = self.processor.segments[number]
        s.load(value, value << 4, s.limit, s.attributes)
        self.processor.mode_changed()

    def general(self) -> dict[str, int]:
        """The general registers by name, and rip and rflags."""
        return {name: self.gpr(number) for number, name in enumerate(GPR_NAMES)} | {
            "rip": self.rip,
            "rflags": self.rflags,
        }

    @property
    def linear_rip(self) -> int:
        """Linear address of the next instruction."""
        return self.rip if self.bits == 64 else self.segment(CS).base + self.rip & _M32

    @property
    def segment_names(self) -> tuple[str, ...]:
        """In the order of their numbers."""
        return tuple(SEGMENT_NAMES)

    @property
    def halted(self) -> bool:
        """HLT waits for an interrupt."""
        return self.processor.halted

    # -- memory

    @property
    def paging(self) -> Paging:
        """The guest's own page tables, as they are now."""
        mask = _M64 if self.board.a20.enabled else ~(1 << 20)
        return Paging(self.control(0), self.control(3), self.control(4), self.efer, self._entry, mask)

    def _entry(self, address: int, size: int) -> int:
        if not self.memory.is_ram(address, size):
            return 0
        return int.from_bytes(self.memory.read(address, size), "little")

    def translate(self, linear: int) -> int | None:
        """Guest-physical address of a linear one, whatever the privilege; None where nothing is mapped."""
        return self.paging.translate(linear)

    def read(self, linear: int, length: int) -> bytes:
        """Up to `length` bytes at a linear address: fewer where the next page is not mapped to RAM."""
        found = bytearray()
        while len(found) < length:
            place = self.translate(linear)
            size = min(length - len(found), PAGE - linear % PAGE)
            if place is None or not self.memory.is_ram(place, size):
                break
            found += self.memory.read(place, size)
            linear = self._wrap(linear + size)
        return bytes(found)

    def write(self, linear: int, data: bytes) -> None:
        """Write at a linear address, whether the guest might or not; all or nothing. Raises GuestUnreachable."""
        parts, done = [], 0
        while done < len(data):
            place = self.translate(linear)
            size = min(len(data) - done, PAGE - linear % PAGE)
            if place is None or not self.memory.is_ram(place, size):
                raise GuestUnreachable(f"no RAM at linear address {linear:#x}")
            parts.append((place, data[done : done + size]))
            done += size
            linear = self._wrap(linear + size)
        for place, part in parts:
            self.memory.write(place, part)

    def _wrap(self, linear: int) -> int:
        return linear & (_M64 if self.paging.is_long else _M32)

    def read_physical(self, address: int, length: int) -> bytes:
        """Up to `length` bytes of RAM at a guest-physical address."""
        while length and not self.memory.is_ram(address, length):
            # As far as RAM reaches.
            end = max((r.stop for r in self.memory.ranges() if address in r), default=address)
            if end <= address:
                return b""
            length = min(length, end - address)
        return self.memory.read(address, length) if length else b""

    def write_physical(self, address: int, data: bytes) -> None:
        """Write RAM. Raises GuestUnreachable."""
        if not self.memory.is_ram(address, len(data)):
            raise GuestUnreachable(f"no RAM at guest-physical address {address:#x}")
        self.memory.write(address, data)

    @property
    def has_paging(self) -> bool:
        """CR0.PG."""
        return bool(self.control(0) & CR0_PG)


class BareGuest(Guest):
    """The guest of the bare machine."""

    def __init__(self, machine: BareMachine) -> None:
        super().__init__(machine.processor, machine.memory, machine.board, machine.clock, machine.outside)
        self._machine = machine

    @property
    def instructions(self) -> int:
        """The processor's."""
        return self.processor.instructions

    @property
    def request(self) -> StopRequest | None:
        """Of the machine's control."""
        return self._machine.control.request

    def ask_to_stop(self) -> None:
        """Through the machine's control."""
        self._machine.control.stop(DebugStop())

    def forget_stop(self) -> None:
        """Only what a debugger has asked for."""
        self._machine.control.forget_debug_stop()

    def translate(self, linear: int) -> int | None:
        """By the processor's own registers, a guest's of AMD-V and its second stage included."""
        p = self.processor
        if not (is_canonical(linear) if p.long_mode else linear <= _M32):
            return None
        page = p.blocks.peek_page(linear)
        return None if page is None else page + linear % PAGE

    def end(self, request: StopRequest) -> None:
        """Through the machine's control."""
        self._machine.control.stop(request)

    def when_emulated(self, call: Callable[[], None]) -> None:
        """There is no hypervisor."""

    def ask_to_pause(self) -> None:
        """It can be taken anywhere."""

    @property
    def machine(self) -> BareMachine:
        """The bare machine."""
        return self._machine

    def set_control(self, name: str, value: int) -> None:
        """As MOV CRn and WRMSR do."""
        p = self.processor
        writes = {"cr0": p.set_cr0, "cr3": p.set_cr3, "cr4": p.set_cr4, "efer": p.set_efer,
                  "cr8": self.board.lapic.write_cr8}  # fmt: skip
        if name == "cr2":
            p.cr2 = value
            return
        try:
            writes[name](value)
        except Fault:
            raise GuestUnreachable(f"the processor refuses {value:#x} for {name}") from None
