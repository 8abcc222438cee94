"""Hooks: functions of the user that are called when the guest does something.

Each kind of hook puts itself in front of a method of the processor when the first hook of that kind is set. A machine
without hooks runs as if there were none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import TypeVar

import iced_x86 as iced

from trapgate.api.devices import cut
from trapgate.api.errors import UnknownInstruction
from trapgate.api.events import ExceptionEvent, InstructionEvent, InterruptEvent, MemoryEvent, PortEvent
from trapgate.cpu.faults import Fault
from trapgate.engine.processor import Processor
from trapgate.isa.operand_tables import BASE_WRITE, CONTROL_READS, CONTROL_WRITES, SEGMENT_LOADS
from trapgate.isa.processor import PYTHON_FORMS
from trapgate.isa.processor import Processor as FormProcessor

PortFunction = Callable[[PortEvent], int | None]
MemoryFunction = Callable[[MemoryEvent], int | None]
ExceptionFunction = Callable[[ExceptionEvent], None]
InterruptFunction = Callable[[InterruptEvent], None]
InstructionFunction = Callable[[InstructionEvent], None]

#: Several forms under one name. Everything else goes by the name of its form.
GROUPS = {
    "ins": ("insb", "insw", "insd"),
    "outs": ("outsb", "outsw", "outsd"),
    "int": ("int", "int3", "into", "int1"),
    "ud": ("raise_ud", "ud0", "ud1", "ud2"),
    "syscall": ("syscall", "syscall_long_python"),
    "mov_cr": ("mov_cr", *(f"{name}_python" for name in (*CONTROL_READS.values(), *CONTROL_WRITES.values()))),
    "sysret": ("sysret", "sysretq", "sysretq_long_python"),
}
#: What native code may carry out of a class, unless somebody wants to see it.
_NATIVES = {
    "syscall": frozenset(("syscall_long",)),
    "sysret": frozenset(("sysretq_long",)),
    "mov_cr": frozenset((*CONTROL_READS.values(), *CONTROL_WRITES.values())),
    "mov_sreg": frozenset(SEGMENT_LOADS.values()),
    "wrmsr": frozenset((BASE_WRITE,)),
}
#: Forms that native code carries out too, or that are no instructions, or that a group has.
_NOT_ALONE = frozenset(
    ("iret", "iretd", "iretq", "raise_gp", "raise_nm", "unimplemented", "rsm", "x87_error",
     "branch_outside", "instruction_breakpoint")
).union(
    *GROUPS.values()
)  # fmt: skip


def instruction_classes() -> dict[str, tuple[str, ...]]:
    """The classes of instructions that can be hooked, with their forms: those that are always carried out in Python."""
    alone = {name: (name,) for name in PYTHON_FORMS if name not in _NOT_ALONE and "_python" not in name}
    return dict(sorted((alone | GROUPS).items()))


class Hook:
    """A hook that is set. `remove()` takes it away."""

    def __init__(self, remove: Callable[[], None]) -> None:
        self._remove = remove

    def remove(self) -> None:
        """Take the hook away; doing so again does nothing."""
        self._remove()
        self._remove = _nothing


def _nothing() -> None:
    return None


class Hooks:
    """All hooks of one processor."""

    def __init__(self, processor: Processor) -> None:
        self._p = processor
        self._ports: list[tuple[range, PortFunction]] = []
        self._memory: list[tuple[range, MemoryFunction]] = []
        self._exceptions: list[tuple[frozenset[int] | None, ExceptionFunction]] = []
        self._interrupts: list[tuple[frozenset[int] | None, InterruptFunction]] = []
        self._smm_hooks: list[Callable[[bool], None]] = []
        self._instructions: dict[str, list[InstructionFunction]] = {}
        self._formatter = iced.Formatter(iced.FormatterSyntax.INTEL)
        self._in_front: set[str] = set()

    def _put_in_front(self, name: str, make: Callable[..., Callable[..., object]]) -> None:
        """Let `make(method)` stand in for a method of this one processor."""
        if name not in self._in_front:
            self._in_front.add(name)
            setattr(self._p, name, make(getattr(self._p, name)))

    # -- ports and devices in memory

    def on_port(self, ports: range, function: PortFunction) -> Hook:
        """Call `function` for accesses that touch `ports`."""
        self._put_in_front("read_port", lambda method: partial(self._read_port, method))
        self._p.sees_ports = True
        self._put_in_front("write_port", lambda method: partial(self._write_port, method))
        return _set(self._ports, (ports, function))

    def _read_port(self, method: Callable[[int, int], int], port: int, size: int) -> int:
        value = method(port, size)
        for ports, function in list(self._ports):
            if port < ports.stop and ports.start < port + size:
                event = PortEvent(port, size, value, False, self._p.instruction_rip, self._p.clock.now)
                answer = function(event)
                value = value if answer is None else cut("the port hook", answer, size)
        return value

    def _write_port(self, method: Callable[[int, int, int], None], port: int, size: int, value: int) -> None:
        for ports, function in list(self._ports):
            if port < ports.stop and ports.start < port + size:
                event = PortEvent(port, size, value, True, self._p.instruction_rip, self._p.clock.now)
                answer = function(event)
                value = value if answer is None else cut("the port hook", answer, size)
        method(port, size, value)

    def on_memory(self, addresses: range, function: MemoryFunction) -> Hook:
        """Call `function` for accesses to devices that touch these guest-physical addresses."""
        self._put_in_front("read_physical", lambda method: partial(self._read_physical, method))
        self._put_in_front("write_physical", lambda method: partial(self._write_physical, method))
        return _set(self._memory, (addresses, function))

    def _read_physical(self, method: Callable[[int, int], int], physical: int, size: int) -> int:
        value = method(physical, size)
        if self._p.is_ram(physical):
            return value
        for addresses, function in list(self._memory):
            if physical < addresses.stop and addresses.start < physical + size:
                answer = function(MemoryEvent(physical, size, value, False, self._p.instruction_rip, self._p.clock.now))
                value = value if answer is None else cut("the memory hook", answer, size)
        return value

    def _write_physical(self, method: Callable[[int, int, int], None], physical: int, size: int, value: int) -> None:
        if not self._p.is_ram(physical):
            for addresses, function in list(self._memory):
                if physical < addresses.stop and addresses.start < physical + size:
                    answer = function(
                        MemoryEvent(physical, size, value, True, self._p.instruction_rip, self._p.clock.now)
                    )
                    value = value if answer is None else cut("the memory hook", answer, size)
        method(physical, size, value)

    # -- exceptions and interrupts

    def on_exception(self, vectors: Collection[int] | None, function: ExceptionFunction) -> Hook:
        """Call `function` before an exception is delivered; with None for every vector."""
        self._put_in_front("note_exception", lambda method: partial(self._note_exception, method))
        self._p.see_faults()
        return _set(self._exceptions, (None if vectors is None else frozenset(vectors), function))

    def _note_exception(self, method: Callable[[Fault], None], fault: Fault) -> None:
        for vectors, function in list(self._exceptions):
            if vectors is None or fault.vector in vectors:
                p = self._p
                function(ExceptionEvent(fault.vector, fault.error, p.rip, fault.address, p.clock.now))
        method(fault)

    def on_interrupt(self, vectors: Collection[int] | None, function: InterruptFunction) -> Hook:
        """Call `function` before an interrupt is delivered, from a device or by INT; with None for every vector."""
        for name, is_software in (("deliver_interrupt", False), ("software_interrupt", True)):
            self._put_in_front(name, partial(self._interrupt_front, is_software))
        return _set(self._interrupts, (None if vectors is None else frozenset(vectors), function))

    def _interrupt_front(self, is_software: bool, method: Callable[..., None]) -> Callable[..., None]:
        return partial(self._deliver_interrupt, is_software, method)

    def _deliver_interrupt(
        self, is_software: bool, method: Callable[..., None], vector: int, *kind: int, **how: bool
    ) -> None:
        for vectors, function in list(self._interrupts):
            if vectors is None or vector in vectors:
                function(InterruptEvent(vector, is_software, self._p.rip, self._p.clock.now))
        method(vector, *kind, **how)

    def on_smm(self, function: Callable[[bool], None]) -> Hook:
        """Call `function(True)` before an SMI is taken and `function(False)` after RSM."""
        self._put_in_front("enter_smm", lambda method: partial(self._smm, method, True))
        self._put_in_front("leave_smm", lambda method: partial(self._smm, method, False))
        return _set(self._smm_hooks, function)

    def _smm(self, method: Callable[[], None], is_entry: bool) -> None:
        if not is_entry:
            method()
        for function in list(self._smm_hooks):
            function(is_entry)
        if is_entry:
            method()

    # -- instructions

    def on_instruction(self, name: str, function: InstructionFunction) -> Hook:
        """Call `function` before an instruction of a class is carried out. Raises UnknownInstruction."""
        classes = instruction_classes()
        if name not in classes:
            raise UnknownInstruction(name, tuple(classes))
        p = self._p
        if p.forms is PYTHON_FORMS:
            p.forms = dict(PYTHON_FORMS)
        if name in _NATIVES:
            p.see_natives(_NATIVES[name])
        functions = self._instructions.setdefault(name, [])
        if not functions:
            for form in classes[name]:
                # A name may stand in several groups' forms, but in one class only.
                original = PYTHON_FORMS[form]
                p.forms = {**p.forms, form: partial(self._carry_out, name, original)}
        return _set(functions, function)

    def _carry_out(
        self,
        name: str,
        original: Callable[[FormProcessor, iced.Instruction], None],
        processor: FormProcessor,
        instruction: iced.Instruction,
    ) -> None:
        p = self._p
        for function in list(self._instructions[name]):
            text = self._formatter.format(instruction)
            function(InstructionEvent(name, text, p.instruction_rip, p.clock.now))
        original(processor, instruction)


_T = TypeVar("_T")


def _set(hooks: list[_T], entry: _T) -> Hook:
    hooks.append(entry)

    def remove() -> None:
        hooks.remove(entry)

    return Hook(remove)
