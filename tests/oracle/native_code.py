"""The machine code that runs test cases on the host's CPU.

No register is reserved: the code reaches its own data by absolute addresses below 2 GiB, so that rsp, too, is a data
register of the instruction under test. Assembled by LLVM, which the package needs anyway.
"""

from __future__ import annotations

import io

import llvmlite.binding as llvm
from elftools.elf.elffile import ELFFile

from . import areas

CODE = 0x2000_0000
CODE_SIZE = areas.PAGE
CURRENT = 0x2000_1000
STACK_TOP = 0x2000_4000
SIGNAL_STACK = 0x2000_4000
SIGNAL_STACK_SIZE = 0x1_0000
#: Holds the address of `exit`: where an instruction that did not branch goes.
LEAVE_POINTER = CURRENT + areas.PAGE - 8
#: The same for 32-bit code: offset and selector of a far jump.
LEAVE_FAR_POINTER = LEAVE_POINTER - 8
PRIVATE_END = SIGNAL_STACK + SIGNAL_STACK_SIZE

INPUTS = 0x2040_0000
OUTPUTS = 0x2080_0000

# A record: 16 general registers, rflags, where to start, what was raised, the FXSAVE64 image, the window.
RFLAGS = 128
TARGET = 136
SIGNAL = 144
TRAP_NUMBER = 152
ERROR = 160
ADDRESS = 168
FAULT_IP = 176
#: Not 0: the instruction is 32-bit code.
NARROW = 184
HOST_STACK = 192
INDEX = 200
COUNT = 208
#: Where a far jump goes that starts 32-bit code: offset and selector.
FAR_TARGET = 216
FX = 256
REGISTERS_SIZE = FX + areas.FX_SIZE
RECORD_SIZE = REGISTERS_SIZE + areas.WINDOW_SIZE

GPRS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{i}" for i in range(8, 16)))

# ucontext_t on x86-64 Linux (asm/sigcontext.h): struct sigcontext starts at byte 40.
_SIGCONTEXT = 40
_UC_CS, _UC_RIP, _UC_ERR, _UC_TRAPNO, _UC_CR2 = (_SIGCONTEXT + 8 * i for i in (18, 16, 19, 20, 22))

#: RFLAGS as compiled code expects them.
_PLAIN_FLAGS = 0x202


def _at(offset: int) -> str:
    return f"qword ptr [{CURRENT + offset}]"


def assembly() -> str:
    """Entry `run(count)` at the start, the signal handler at `handler`."""
    load = "\n".join(f"mov {name}, {_at(8 * i)}" for i, name in enumerate(GPRS))
    save = "\n".join(f"mov {_at(8 * i)}, {name}" for i, name in enumerate(GPRS))
    return f"""
    .intel_syntax noprefix
    .text
    run:
        push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        mov {_at(HOST_STACK)}, rsp
        mov {_at(COUNT)}, rdi
        mov {_at(INDEX)}, 0
    next:
        mov rax, {_at(INDEX)}
        cmp rax, {_at(COUNT)}
        jae done
        imul rsi, rax, {RECORD_SIZE}
        add rsi, {INPUTS}
        mov edi, {CURRENT}
        mov ecx, {HOST_STACK // 8}
        rep movsq
        add rsi, {FX - HOST_STACK}
        mov edi, {CURRENT + FX}
        mov ecx, {areas.FX_SIZE // 8}
        rep movsq
        mov edi, {areas.WINDOW}
        mov ecx, {areas.WINDOW_SIZE // 8}
        rep movsq
        fxrstor64 [{CURRENT + FX}]
        mov rsp, {STACK_TOP}
        cmp {_at(NARROW)}, 0
        jne narrow
        xor eax, eax
        mov ds, eax
        mov es, eax
        push {_at(RFLAGS)}
        popfq
        {load}
        jmp {_at(TARGET)}
    narrow:
        mov eax, {areas.USER_DATA}
        mov ds, eax
        mov es, eax
        mov rax, {_at(TARGET)}
        mov dword ptr [{CURRENT + FAR_TARGET}], eax
        mov dword ptr [{CURRENT + FAR_TARGET + 4}], {areas.USER_CODE_32}
        push {_at(RFLAGS)}
        popfq
        {load}
        .byte 0xFF, 0x2C, 0x25
        .long {CURRENT + FAR_TARGET}
    exit:
        {save}
        mov rsp, {STACK_TOP}
        pushfq
        pop {_at(RFLAGS)}
        push {_PLAIN_FLAGS}
        popfq
        fxsave64 [{CURRENT + FX}]
        fninit
        mov dword ptr [{STACK_TOP - 8}], {areas.MXCSR_RESET}
        ldmxcsr [{STACK_TOP - 8}]
        imul rdi, {_at(INDEX)}, {RECORD_SIZE}
        add rdi, {OUTPUTS}
        mov esi, {CURRENT}
        mov ecx, {REGISTERS_SIZE // 8}
        rep movsq
        mov esi, {areas.WINDOW}
        mov ecx, {areas.WINDOW_SIZE // 8}
        rep movsq
        inc {_at(INDEX)}
        jmp next
    done:
        mov rsp, {_at(HOST_STACK)}
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        ret
    .balign 16
    handler:
        mov {_at(SIGNAL)}, rdi
        mov rax, qword ptr [rdx + {_UC_TRAPNO}]
        mov {_at(TRAP_NUMBER)}, rax
        mov rax, qword ptr [rdx + {_UC_ERR}]
        mov {_at(ERROR)}, rax
        mov rax, qword ptr [rdx + {_UC_CR2}]
        mov {_at(ADDRESS)}, rax
        mov rax, qword ptr [rdx + {_UC_RIP}]
        mov {_at(FAULT_IP)}, rax
        lea rax, [rip + exit]
        mov qword ptr [rdx + {_UC_RIP}], rax
        mov word ptr [rdx + {_UC_CS}], {areas.USER_CODE}
        ret
    """


def assemble() -> tuple[bytes, dict[str, int]]:
    """The code for address `CODE`, and the offsets of its labels."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    lines = "\n".join(f'module asm "{line.strip()}"' for line in assembly().splitlines() if line.strip())
    module = llvm.parse_assembly(f'target triple = "x86_64-unknown-linux-gnu"\n{lines}')
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine()
    elf = ELFFile(io.BytesIO(machine.emit_object(module)))
    text = elf.get_section_by_name(".text")
    if elf.get_section_by_name(".rela.text") is not None:
        raise AssertionError("the code has relocations: wanted absolute addresses only")
    labels = {s.name: int(s["st_value"]) for s in elf.get_section_by_name(".symtab").iter_symbols() if s.name}
    return text.data(), labels
