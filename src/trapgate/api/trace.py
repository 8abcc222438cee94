"""Traces: every instruction of a run with its registers and accesses, and every exception and interrupt.

A traced run takes single steps at the pace of an untraced one (engine/stepping.py), so its counts are the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import iced_x86 as iced

from trapgate.api.accesses import LONGEST_INSTRUCTION, Accesses, MemoryAccess
from trapgate.api.errors import InvalidArgument
from trapgate.api.events import ExceptionEvent, InterruptEvent
from trapgate.api.memory import VirtualMemory
from trapgate.api.qemu_format import cpu_state, event_line
from trapgate.arch.registers import GPR_NAMES
from trapgate.engine.processor import Processor
from trapgate.lab.processor_report import read_code

#: What a trace can show: instructions, exceptions and interrupts, registers (QEMU's names for -d), memory accesses.
PARTS = ("in_asm", "int", "cpu", "mem")
#: The value of an access is shown up to this size in bytes.
LARGEST_VALUE = 16


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """What is traced. Addresses are linear; `end` is the first that is not traced any more. None: no filter.

    The first `skip` instructions of the run go by at full speed, whatever the filters. `count` is the number of
    instructions that are traced, after which the run ends.
    """

    start: int | None = None
    end: int | None = None
    cpl: int | None = None
    skip: int = 0
    count: int | None = None
    parts: Collection[str] = frozenset(("in_asm", "int", "mem"))
    as_json: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidArgument."""
        if isinstance(self.parts, str) or not set(self.parts) <= set(PARTS):
            raise InvalidArgument(f"some of {', '.join(PARTS)} for parts=", repr(self.parts), "give them as a set")
        if self.cpl not in (None, 0, 1, 2, 3):
            raise InvalidArgument("a privilege level from 0 to 3 for cpl=", repr(self.cpl), "correct cpl=")
        if self.skip < 0 or (self.count is not None and self.count <= 0):
            got = f"skip={self.skip}, count={self.count}"
            raise InvalidArgument("a skip= of 0 or more and a count= above 0", got, "trace at least one instruction")
        if self.start is not None and self.end is not None and self.end <= self.start:
            got = f"{self.start:#x} to {self.end:#x}"
            raise InvalidArgument("an end= above start=", got, "end= is the first address that is not traced")


class Tracer:
    """Writes lines to `write` (an engine Observer). `on_done` is called behind the last of `count` instructions."""

    def __init__(
        self, processor: Processor, options: TraceOptions, write: Callable[[str], None], on_done: Callable[[], None]
    ) -> None:
        self._p = processor
        self._options = options
        self._write = write
        self._on_done = on_done
        self._accesses = Accesses(processor)
        self._memory = VirtualMemory(processor)
        syntax = iced.FormatterSyntax.INTEL if options.as_json else iced.FormatterSyntax.GAS
        self._formatter = iced.Formatter(syntax)
        self._formatter.hex_prefix = "0x"
        self._formatter.hex_suffix = ""
        self._formatter.uppercase_hex = False
        if options.as_json:
            self._formatter.small_hex_numbers_in_decimal = False
        else:
            # QEMU's disassembler, Capstone, writes AT&T syntax so.
            self._formatter.gas_show_mnemonic_size_suffix = True
            self._formatter.space_after_operand_separator = True
            self._formatter.gas_space_after_memory_operand_comma = True
            self._formatter.branch_leading_zeros = False
            self._formatter.first_operand_char_index = 9
        self._first = processor.instructions + options.skip
        self._events = 0
        self._present: iced.Instruction | None = None
        self._reads: list[tuple[MemoryAccess, int | None]] = []
        self._record: dict[str, Any] = {}
        self.traced = 0
        self.is_done = False

    def _passes(self, linear: int) -> bool:
        o = self._options
        return (
            not self.is_done
            and self._p.instructions >= self._first
            and (o.start is None or linear >= o.start)
            and (o.end is None or linear < o.end)
            and (o.cpl is None or self._p.cpl == o.cpl)
        )

    def before(self) -> None:
        """The instruction at rip comes next."""
        self._present = None
        p = self._p
        linear = p.linear_rip()
        if not self._passes(linear):
            return
        code = read_code(p, linear, LONGEST_INSTRUCTION)
        if not code:
            return
        instruction = self._present = iced.Decoder(p.bits, code, ip=p.rip).decode()
        parts = self._options.parts
        accesses = self._accesses.of(instruction) if "mem" in parts else []
        # What is read must be looked at now, what is written afterwards.
        self._reads = [(access, None if access.kind == "write" else self._value(access)) for access in accesses]
        data = code[: instruction.len]
        if self._options.as_json:
            self._record = self._describe(instruction, linear, data)
            return
        if "in_asm" in parts:
            self._write(f"----------------\nIN: \n{_assembly(p, linear, data, self._formatter.format(instruction))}\n")
        if "cpu" in parts:
            self._write(cpu_state(p))

    def _describe(self, instruction: iced.Instruction, linear: int, data: bytes) -> dict[str, Any]:
        p = self._p
        record: dict[str, Any] = {"kind": "instruction", "instruction": p.instructions, "cycle": p.clock.now}
        record |= {"cpl": p.cpl, "bits": p.bits, "rip": hex(p.rip), "linear": hex(linear)}
        if "in_asm" in self._options.parts:
            record |= {"bytes": data.hex(), "text": self._formatter.format(instruction)}
        if "cpu" in self._options.parts:
            record["registers"] = {name: hex(p.q[n]) for n, name in enumerate(GPR_NAMES)} | {"rflags": hex(p.rflags)}
        return record

    def after(self) -> None:
        """The instruction has been carried out, or its exception has been delivered."""
        if self._present is None:
            return
        parts = frozenset(self._options.parts)
        accesses = [(access, self._value(access) if value is None else value) for access, value in self._reads]
        if self._options.as_json:
            if "mem" in parts:
                self._record["accesses"] = [
                    {"kind": access.kind, "address": hex(access.address), "size": access.size, "value": _hex(value)}
                    for access, value in accesses
                ]
            if not parts.isdisjoint(("in_asm", "cpu", "mem")):
                self._write(json.dumps(self._record))
        else:
            for access, value in accesses:
                shown = "" if value is None else f" = {value:#0{2 * access.size + 2}x}"
                self._write(f"MEM {access.kind} {access.address:#018x} size={access.size}{shown}")
        self.traced += 1
        if self.traced == self._options.count:
            self.is_done = True
            self._on_done()

    def _value(self, access: MemoryAccess) -> int | None:
        """What memory holds there; None when it is long, or no RAM."""
        if access.size > LARGEST_VALUE or not all(
            self._memory.is_mapped(address) for address in (access.address, access.address + access.size - 1)
        ):
            return None
        return int.from_bytes(self._memory.read(access.address, access.size), "little")

    def on_exception(self, event: ExceptionEvent) -> None:
        """An exception is about to be delivered."""
        self._event(event.vector, event.error, False, event.address, "exception")

    def on_interrupt(self, event: InterruptEvent) -> None:
        """An interrupt is about to be delivered."""
        self._event(event.vector, None, event.is_software, None, "interrupt")

    def on_smm(self, is_entry: bool) -> None:
        """An SMI is about to be taken, or RSM has been carried out."""
        p = self._p
        if "int" not in self._options.parts or not self._passes(p.linear_rip()):
            return
        if self._options.as_json:
            record = {"kind": "smm", "instruction": p.instructions, "cycle": p.clock.now, "enter": is_entry}
            self._write(json.dumps(record | {"cpl": p.cpl, "rip": hex(p.rip), "linear": hex(p.linear_rip())}))
        else:
            self._write(f"SMM: {'enter' if is_entry else 'after RSM'}")
            self._write(cpu_state(p))

    def _event(self, vector: int, error: int | None, is_software: bool, address: int | None, kind: str) -> None:
        p = self._p
        # Behind a software interrupt rip is that of the next instruction already.
        rip = p.instruction_rip if is_software else p.rip
        linear = p.linear_rip(rip)
        if "int" not in self._options.parts or not self._passes(linear):
            return
        if self._options.as_json:
            record = {"kind": kind, "instruction": p.instructions, "cycle": p.clock.now, "vector": vector}
            record |= {"error": error, "address": _hex(address), "software": is_software}
            self._write(json.dumps(record | {"cpl": p.cpl, "rip": hex(rip), "linear": hex(linear)}))
        else:
            if kind == "interrupt" and not is_software:
                self._write(f"Servicing hardware INT=0x{vector:02x}")
            self._write(event_line(p, rip, self._events, vector, error, is_software, address))
            self._write(cpu_state(p, rip))
        self._events += 1


def _hex(value: int | None) -> str | None:
    return None if value is None else hex(value)


def _assembly(p: Processor, linear: int, data: bytes, text: str) -> str:
    """A line of QEMU's `-d in_asm`: address, bytes, AT&T syntax as Capstone writes it."""
    address = f"0x{linear:016x}" if p.bits == 64 else f"0x{linear:08x}"
    return f"{address}:  {data.hex(' '):<24} {text:<9}"
