"""Errors of the Python API: what a program can get wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trapgate import Machine
from trapgate.api import TraceOptions
from trapgate.api.backtrace import NotAnElfFile, Symbols
from trapgate.api.errors import (
    AlreadyBooted,
    ForbiddenValue,
    InvalidAnswer,
    InvalidArgument,
    InvalidBytes,
    InvalidDeadline,
    InvalidRange,
    InvalidRegister,
    InvalidSize,
    NoGuest,
    NotBooted,
    NotMapped,
    UnexpectedEnd,
    UnknownCpu,
    UnknownInstruction,
    UnknownMsr,
    UnknownRegister,
    UnknownSymbol,
)
from trapgate.machine.errors import MappingConflict

from .cases import World, case
from .machine_cases import Gadget

#: in al, dx from port 300h, for ever
READER = "ba 00 03 ec eb fd"


def _on(action: Callable[[Machine], object]) -> Callable[[World], object]:
    """An action on a machine that has a guest."""
    return lambda world: action(world.machine())


def _set(name: str, value: Any) -> Callable[[World], object]:
    return lambda world: setattr(world.machine().registers, name, value)


def _read_warm(world: World) -> None:
    class Sensor(Gadget):
        def read_port(self, offset: int, width: int) -> int:
            return "warm"  # type: ignore[return-value]

    machine = world.machine(READER)
    machine.add_port_device(0x300, Sensor())
    machine.run()


# Making and booting
case(
    InvalidSize,
    "wanted a memory size in bytes or a text such as '128M' or '1G', got 'lots': correct memory=",
    lambda w: Machine("lots"),
)
case(
    UnknownCpu,
    (
        "wanted a processor that trapgate has (opteron-2007, opteron-2006, pentium3, pentium, 486), got 'z80': "
        "correct cpu="
    ),
    lambda w: Machine(cpu="z80"),
)
case(
    InvalidArgument,
    "wanted a datetime for start_time=, got '2007': see datetime.datetime",
    lambda w: Machine(start_time="2007"),
)  # type: ignore[arg-type]
case(
    NotAnElfFile,
    (
        "wanted an ELF file with symbols at missing.elf, got no such file or directory: name the kernel before it "
        "was stripped"
    ),
    lambda w: Symbols("missing.elf"),
)
case(
    NotAnElfFile,
    (
        "wanted an ELF file with symbols at notes.txt, got a file that is none (Magic number does not match): "
        "name the kernel before it was stripped"
    ),
    lambda w: Symbols(w.write("notes.txt", b"no ELF file")),
)
case(
    NotAnElfFile,
    ("wanted an ELF file with symbols at stripped, got one without symbols: name the kernel before it was stripped"),
    lambda w: Symbols(w.write("stripped", _stripped())),
)
case(
    InvalidArgument,
    "wanted an address of at most 64 bits for the symbol main, got '7c00': correct the symbol main",
    lambda w: Symbols({"main": "7c00"}),
)  # type: ignore[dict-item]
case(
    NoGuest,
    "wanted exactly one of guest, kernel= and image= to boot, got nothing: name one guest",
    lambda w: Machine("1M").boot(),
)
case(
    NoGuest,
    "wanted exactly one of guest, kernel= and image= to boot, got guest and image=: name one guest",
    lambda w: Machine("1M").boot("debian", image=b""),
)
case(
    AlreadyBooted,
    "wanted a machine that has no guest yet, got one that has: make another Machine",
    _on(lambda m: m.boot("debian")),
)
case(
    InvalidArgument,
    "wanted address= with the bytes of image=, got it without them: leave it out",
    lambda w: Machine("1M").boot("real-loop", address=0x7C00),
)
case(
    InvalidArgument,
    ("wanted the bytes of an image or a BootImage for image=, got 'kernel.elf': name files with guest or kernel="),
    lambda w: Machine("1M").boot(image="kernel.elf"),
)  # type: ignore[arg-type]
case(
    InvalidArgument,
    "wanted a list of words for command=, got 'ls -l': write ['ls', '-l'], or use shlex.split()",
    lambda w: Machine("128M").boot("debian", command="ls -l"),
)

# Running
case(NotBooted, "wanted a machine with a guest, got one without: call boot() first", lambda w: Machine("1M").run())
case(
    InvalidDeadline,
    "wanted a whole number above 0 for cycles=, got 0: give the run some time",
    _on(lambda m: m.run(cycles=0)),
)
case(
    InvalidDeadline,
    "wanted a whole number above 0 for count=, got 1.5: give the run some time",
    _on(lambda m: m.step(1.5)),
)  # type: ignore[arg-type]
case(
    InvalidDeadline,
    "wanted a number above 0 for seconds=, got nan: give the run some time",
    _on(lambda m: m.run(seconds=float("nan"))),
)
case(
    InvalidArgument,
    ("wanted a text, or a compiled pattern of text, to look for, got b'login:': use until_address= for an address"),
    _on(lambda m: m.run(until=b"login:")),
)  # type: ignore[arg-type]
case(
    InvalidArgument,
    ("wanted a vector from 0 to 255, or several of them, for until_exception=, got '#PF': see trapgate.arch.vectors"),
    _on(lambda m: m.run(until_exception="#PF")),
)  # type: ignore[arg-type]
case(
    UnexpectedEnd,
    (
        "wanted 'login:' on the console, got a run that ended otherwise (the seconds of the run are used up) "
        "after '': look at machine.report()"
    ),
    _on(lambda m: m.expect("login:", seconds=0.0001)),
)
case(
    InvalidArgument,
    ("wanted an address of at most 64 bits, or a symbol's name, for until_address=, got -1: correct until_address="),
    _on(lambda m: m.run(until_address=-1)),
)
case(
    UnknownSymbol,
    "wanted a symbol called 'main', got no symbols: see load_symbols()",
    _on(lambda m: m.run(until_address="main")),
)
case(
    UnknownSymbol,
    "wanted a symbol called 'main', got 2 others: see load_symbols()",
    _on(lambda m: (m.load_symbols({"start": 0, "end": 16}), m.add_breakpoint("main"))),
)
case(
    InvalidArgument,
    "wanted a size above 0 for a watchpoint, got 0: give the number of bytes",
    _on(lambda m: m.add_watchpoint(0x500, 0)),
)
case(
    InvalidArgument,
    "wanted some of in_asm, int, cpu, mem for parts=, got 'cpu': give them as a set",
    lambda w: TraceOptions(parts="cpu"),
)
case(
    InvalidArgument, "wanted a privilege level from 0 to 3 for cpl=, got 4: correct cpl=", lambda w: TraceOptions(cpl=4)
)
case(
    InvalidArgument,
    "wanted a skip= of 0 or more and a count= above 0, got skip=0, count=0: trace at least one instruction",
    lambda w: TraceOptions(count=0),
)
case(
    InvalidArgument,
    "wanted an end= above start=, got 0x10 to 0x10: end= is the first address that is not traced",
    lambda w: TraceOptions(start=16, end=16),
)

# Looking and changing
case(
    UnknownRegister,
    (
        "wanted a register (rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, rip, "
        "rflags, cr0, cr2, cr3, cr4, efer, es, cs, ss, ds, fs, gs, ldtr, tr, gdtr, idtr, cpl, bits, linear_rip), "
        "got 'eax': use its 64-bit name, and xmm(n) for XMM registers"
    ),
    _on(lambda m: m.registers.eax),
)
case(
    UnknownRegister,
    (
        "wanted a register (rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, rip, "
        "rflags, cr0, cr2, cr3, cr4, efer), got 'eax': use set_xmm() for XMM registers"
    ),
    _set("eax", 1),
)
case(
    UnknownRegister,
    (
        "wanted a register (rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15, rip, "
        "rflags, cr0, cr2, cr3, cr4, efer), got 'cs': use cs.load()"
    ),
    _set("cs", 8),
)
case(
    InvalidRegister,
    "wanted an unsigned number of at most 64 bits for rax, got -0x1: mask it to the register's size",
    _set("rax", -1),
)
case(
    InvalidRegister,
    "wanted an unsigned number of at most 64 bits for rip, got 'main': mask it to the register's size",
    _set("rip", "main"),
)
case(
    ForbiddenValue,
    (
        "wanted a value that the processor takes for cr0, got 0x80000000, for which it raises #GP: see the manual "
        "for what the register may hold"
    ),
    _set("cr0", 1 << 31),
)
case(
    InvalidArgument,
    "wanted a register from 0 to 15 for xmm(), got 16: correct xmm()",
    _on(lambda m: m.registers.xmm(16)),
)
case(
    InvalidRange,
    "wanted memory[address] or memory[start:stop], got slice(0, None, None): name both ends, without a step",
    _on(lambda m: m.memory[0:]),
)
case(
    InvalidRange,
    "wanted memory[address] or memory[start:stop], got 'main': name both ends, without a step",
    _on(lambda m: m.memory["main"]),
)  # type: ignore[index]
case(
    InvalidBytes,
    "wanted 4 bytes from 0x0 on, got 3 bytes: assign exactly as much as the range holds",
    _on(lambda m: m.memory.__setitem__(slice(0, 4), b"abc")),
)
case(
    InvalidBytes,
    "wanted a number from 0 to 255 for the byte at 0x10, got 256: assign exactly as much as the range holds",
    _on(lambda m: m.memory.__setitem__(16, 256)),
)
case(
    InvalidArgument,
    "wanted a number of bytes, 0 or more, for read(), got -1: correct read()",
    _on(lambda m: m.memory.read(0, -1)),
)
case(
    NotMapped,
    (
        "wanted virtual address 0x40000000 to lead to RAM, got one that the guest's page tables do not map there: "
        "look at machine.virtual.is_mapped(address) first"
    ),
    _on(lambda m: m.virtual.read(0x4000_0000, 1)),
)
case(
    InvalidArgument,
    "wanted a text or bytes to send, got 5: make a text of it with str()",
    _on(lambda m: m.console.send(5)),
)  # type: ignore[arg-type]

case(
    UnknownMsr,
    "wanted an MSR that the processor has, got 0x999: choose another one, or another cpu=",
    _on(lambda m: m.registers.msr(0x999)),
)
case(
    ForbiddenValue,
    "wanted a value that the processor takes for MSR 0xc0000080, got 0x1000000, for which it raises #GP: "
    "see the manual for what the register may hold",
    _on(lambda m: m.registers.set_msr(0xC000_0080, 1 << 24)),
)
case(
    InvalidArgument,
    "wanted a register of 0 to 3, 6 and 7 for dr(), got 4: it is 6 or 7 by another name",
    _on(lambda m: m.registers.dr(4)),
)

# Hooks and devices
case(
    InvalidArgument,
    ("wanted a port from 0 to 0xffff, or a range of them without gaps, for on_port(), got 65536: correct on_port()"),
    _on(lambda m: m.on_port(0x10000, print)),
)
case(
    InvalidArgument,
    (
        "wanted a port from 0 to 0xffff, or a range of them without gaps, for on_port(), got range(0, 16, 2): "
        "correct on_port()"
    ),
    _on(lambda m: m.on_port(range(0, 16, 2), print)),
)
case(
    InvalidArgument,
    "wanted a function for on_port(), got None: give one that takes the event",
    _on(lambda m: m.on_port(0x300, None)),
)  # type: ignore[arg-type]
case(
    InvalidArgument,
    "wanted addresses of devices for on_memory(), got RAM at 0x500: use add_watchpoint() for RAM",
    _on(lambda m: m.on_memory(0x500, print)),
)
case(
    InvalidArgument,
    "wanted a vector from 0 to 255, or several of them, for on_interrupt(), got []: see trapgate.arch.vectors",
    _on(lambda m: m.on_interrupt([], print)),
)
case(
    UnknownInstruction,
    (
        "wanted a class of instructions that can be hooked (arpl, bound, call_far, clgi, clts, cpuid, enter, "
        "hlt, in, ins, int, invd, invlpg, invlpga, jmp_far, lar, lds, les, lfs, lgdt, lgs, lidt, lldt, lmsw, lsl, "
        "lss, ltr, monitor, mov_cr, mov_dr, mov_sreg, mwait, out, outs, pop_sreg, push_sreg, rdmsr, rdpmc, retf, "
        "sgdt, sidt, skinit, sldt, smsw, stgi, str, syscall, sysenter, sysexit, sysexitq, sysret, ud, verr, verw, "
        "vmload, vmmcall, vmrun, vmsave, wbinvd, wrmsr), got "
        "'add': choose one of them, or set a breakpoint"
    ),
    _on(lambda m: m.on_instruction("add", print)),
)
case(
    InvalidArgument,
    ("wanted a device with the methods read_port and write_port, got one of object: give an object that has both"),
    _on(lambda m: m.add_port_device(0x300, object())),
)  # type: ignore[arg-type]
case(
    InvalidArgument,
    ("wanted a device with the methods read_port and write_port, got the class Gadget: give an object that has both"),
    _on(lambda m: m.add_port_device(0x300, Gadget)),
)  # type: ignore[arg-type]
case(
    MappingConflict,
    "gadget: wanted address 0x1000, got one that RAM has: move one of the two",
    _on(lambda m: m.add_memory_device(0x1000, Gadget())),
)
case(
    InvalidAnswer,
    "wanted an int from gadget.read_port, got 'warm': return the value that the guest is to read",
    _read_warm,
)
case(
    InvalidArgument,
    "wanted an interrupt request from 0 to 15 for irq_line(), got 16: correct irq_line()",
    _on(lambda m: m.irq_line(16)),
)
case(
    InvalidArgument,
    "wanted a number of cycles, 0 or more, for after(), got -1: correct after()",
    _on(lambda m: m.after(-1, print)),
)


def _stripped() -> bytes:
    from firmware.images import elf

    return elf()
