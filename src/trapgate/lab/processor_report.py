"""A processor's state in words: what is shown when a guest's processor shuts down or cannot go on."""

from __future__ import annotations

import iced_x86 as iced

from trapgate.arch.registers import CS, GPR_NAMES
from trapgate.cpu.faults import NAMES
from trapgate.engine.processor import Processor

#: Instructions that are shown from rip on, and the most bytes that one has (APM vol. 3, 1.1).
INSTRUCTIONS = 6
LONGEST_INSTRUCTION = 15
PAGE = 4096


def describe_processor(processor: Processor) -> str:
    """Registers, segments, control registers, exceptions so far and the code at rip, in lines. Changes nothing."""
    registers = [f"{name:>3}={processor.q[number]:016x}" for number, name in enumerate(GPR_NAMES)]
    lines = ["  ".join(registers[start : start + 4]) for start in range(0, len(registers), 4)]
    lines.append(
        f"rip={processor.rip:016x}  rflags={processor.rflags:08x}  cpl={processor.cpl}  {processor.bits}-bit code"
    )
    lines.extend(
        f" {segment.name}={segment.selector:04x}  base={segment.base:016x}  limit={segment.limit:08x}"
        f"  attributes={segment.attributes:03x}"
        for segment in processor.segments
    )
    lines.append(
        f"cr0={processor.cr0:08x}  cr2={processor.cr2:016x}  cr3={processor.cr3:016x}  cr4={processor.cr4:08x}"
        f"  efer={processor.efer:08x}"
    )
    lines.append(
        f"gdt={processor.gdtr_base:016x}  limit={processor.gdtr_limit:04x}"
        f"  idt={processor.idtr_base:016x}  limit={processor.idtr_limit:04x}"
    )
    lines.extend(exception_lines(processor))
    code = _code_bytes(processor, INSTRUCTIONS * LONGEST_INSTRUCTION)
    return "\n".join([*lines, *code_lines(code, processor.bits, processor.rip)])


def exception_lines(processor: Processor) -> list[str]:
    """Exceptions so far, and the last ones, oldest first, with error code, rip and the address of a page fault."""
    counts = sorted(processor.exception_counts.items())
    exceptions = ", ".join(f"{NAMES.get(vector, vector)} {count}" for vector, count in counts)
    lines = [f"exceptions so far: {exceptions or 'none'}"]
    if processor.recent_exceptions:
        lines.append("last exceptions:")
    for vector, error, rip, address in processor.recent_exceptions:
        text = f"  {NAMES.get(vector, vector)} at rip={rip:016x}"
        if error is not None:
            text += f"  error={error:04x}"
        if address is not None:
            text += f"  address={address:016x}"
        lines.append(text)
    return lines


def code_lines(code: bytes, bits: int, rip: int) -> list[str]:
    """The first instructions of `code`, which stands at `rip`, with their bytes."""
    if not code:
        return ["the code at rip is not in memory"]
    formatter = iced.Formatter(iced.FormatterSyntax.INTEL)
    lines: list[str] = []
    for instruction in iced.Decoder(bits, code, ip=rip):
        if len(lines) == INSTRUCTIONS:
            break
        start = instruction.ip - rip & 0xFFFF_FFFF
        data = code[start : start + instruction.len].hex(" ")
        lines.append(f"{instruction.ip:016x}  {data:<32}  {formatter.format(instruction)}")
    return lines


def _code_bytes(processor: Processor, length: int) -> bytes:
    """Up to `length` bytes at rip; fewer where the next page is not in RAM."""
    base = 0 if processor.bits == 64 else processor.segments[CS].base
    return read_code(processor, base + processor.rip, length)


def read_code(processor: Processor, linear: int, length: int) -> bytes:
    """Up to `length` bytes at a linear address; fewer where the next page is not in RAM. Has no side effects."""
    mask = (1 << 64) - 1 if processor.bits == 64 else 0xFFFF_FFFF
    data = b""
    linear &= mask
    while len(data) < length:
        page = processor.blocks.peek_page(linear)
        if page is None:
            break
        inside = linear % PAGE
        data += processor.memory.read(page + inside, min(PAGE - inside, length - len(data)))
        linear = linear + PAGE - inside & mask
    return data
