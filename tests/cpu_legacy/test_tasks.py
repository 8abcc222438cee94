"""Hardware task switches (APM vol. 2, 12.4 and 12.5)."""

from __future__ import annotations

import pytest

from .conftest import Check

#: Tasks: FREE has the 32-bit TSS, FREE + 8 the 16-bit one, FREE + 16 a task gate to FREE.
_TASKS = """
%macro task32 2         ; label of the TSS, entry
        mov dword [%1 + 0x20], %2
        mov dword [%1 + 0x24], 2
        mov dword [%1 + 0x38], task_stack
        mov dword [%1 + 0x48], DATA0
        mov dword [%1 + 0x4C], CODE0
        mov dword [%1 + 0x50], DATA0
        mov dword [%1 + 0x54], DATA0
        mov dword [%1 + 0x58], 0
        mov dword [%1 + 0x5C], 0
        mov dword [%1 + 0x60], 0
%endmacro
%macro show_state 0     ; EFLAGS.NT, the current task, the low attribute bytes of both TSSs, CR0.TS
        pushfd
        pop eax
        and eax, 0x4000
        hex eax
        str ax
        movzx eax, ax
        hex eax
        movzx eax, byte [gdt + TSS + 5]
        hex eax
        movzx eax, byte [gdt + FREE + 5]
        hex eax
        mov eax, cr0
        and eax, 8
        hex eax
        clts
%endmacro
test_body:
        system FREE, tss32, 0x67, 0xE9
        system FREE + 8, tss16, 0x2B, 0x81
        descriptor FREE + 16, FREE << 16, 0xE500
"""
_DATA = """
align 16
tss32:  times 26 dd 0
tss16:  times 22 dw 0
        times 64 dd 0
task_stack:
"""


def test_call_and_return(check: Check) -> None:
    """CALL links and nests, IRET goes back; busy bits, NT, CR0.TS; registers of the old task come back."""
    check(
        _TASKS
        + """
        task32 tss32, .task
        try "call"
        mov ebx, 0x12345678
        mov dword [tss32 + 0x34], 0xCAFE        ; EBX
        call FREE:0xFFFFFFFF
.after: hex ebx
        show_state
        done
        try "gate"
        mov dword [tss32 + 0x20], .task
        call FREE + 16:0
        done
        try "jump"
        mov dword [tss32 + 0x20], .jumped
        jmp FREE:0
.home:  done
        ret
.task:  hex ebx
        movzx eax, word [tss32]
        hex eax
        show_state
        mov eax, [tss + 0x20]
        sub eax, [origin]
        hex eax
        iretd
.jumped:
        show_state
        jmp TSS:0
""".replace("        jmp FREE:0\n.home:", "        jmp FREE:0\n.home:")
        + _DATA,
        """
        call: 0000cafe 00000028 00004000 00000080 0000008b 000000eb 00000008 00000016 \
12345678 00000000 00000028 0000008b 000000e9 00000008 ok
        gate: 0000cafe 00000028 00004000 00000080 0000008b 000000eb 00000008 00000011 ok
        jump: 00000000 00000080 00000089 000000eb 00000008 ok
        """,
    )


def test_errors_before_the_switch(check: Check) -> None:
    """Faults of the old task: at the instruction, with nothing changed."""
    check(
        _TASKS
        + """
%macro fails 2+
        try %1
        %2
        done
%endmacro
        fails "busy", jmp TSS:0
        fails "in an LDT", jmp FREE + 4:0
        mov byte [gdt + FREE + 5], 0x69
        fails "not present", jmp FREE:0
        fails "not present, by a gate", jmp FREE + 16:0
        system FREE, tss32, 0x66, 0xE9
        fails "too short", jmp FREE:0
        system FREE + 8, tss16, 0x2A, 0x81
        fails "too short, 16-bit", call FREE + 8:0
        descriptor FREE + 16, TSS << 16, 0xE500
        fails "gate to a busy TSS", call FREE + 16:0
        descriptor FREE + 16, FREE << 16, 0x6500
        fails "gate not present", call FREE + 16:0
        descriptor FREE + 16, FREE << 16, 0x8500
        try "gate's DPL"
        user .user
.user:  jmp FREE + 16:0
        ends
        try "TSS's DPL"
        user .user2
.user2: jmp TSS:0
        ends
        system FREE, tss32, 0x67, 0xE9
        try "IRET to an available TSS"
        mov word [tss], FREE
        push dword 0x4002
        popfd
        iretd
        ends
        push dword 2
        popfd
        ret
"""
        + _DATA,
        """
        busy: 0000000d 00000028 00000000
        in an LDT: 0000000d 00000084 00000000
        not present: 0000000b 00000080 00000000
        not present, by a gate: 0000000b 00000080 00000000
        too short: 0000000a 00000080 00000000
        too short, 16-bit: 0000000a 00000088 00000000
        gate to a busy TSS: 0000000d 00000028 00000000
        gate not present: 0000000b 00000090 00000000
        gate's DPL: 0000000d 00000090 00000000
        TSS's DPL: 0000000d 00000028 00000000
        IRET to an available TSS: 0000000a 00000080 0000000f
        """,
    )


_BAD = (
    ("LDT not one", "mov dword [tss32 + 0x60], DATA0", "0000000a 00000010"),
    ("LDT local", "mov dword [tss32 + 0x60], 4", "0000000a 00000004"),
    ("CS null", "mov dword [tss32 + 0x4C], 0", "0000000a 00000000"),
    ("CS data", "mov dword [tss32 + 0x4C], DATA0", "0000000a 00000010"),
    ("CS's DPL", "mov dword [tss32 + 0x4C], CODE0 + 1", "0000000a 00000008"),
    ("CS not present", "mov dword [tss32 + 0x4C], FREE + 24", "0000000b 00000098"),
    ("DS not readable", "mov dword [tss32 + 0x54], TSS", "0000000a 00000028"),
    ("ES not present", "mov dword [tss32 + 0x48], FREE + 32", "0000000b 000000a0"),
)


@pytest.mark.parametrize(("name", "change", "error"), _BAD)
def test_errors_behind_the_switch(check: Check, name: str, change: str, error: str) -> None:
    """Faults of the new task: #TS and #NP with the selector, at its first instruction; it is the current task.

    QEMU gives the right error codes, but the address of the jump in the old task.
    """
    # The exception's gate is a task gate to a third task, so that it does not need what could not be loaded.
    check(
        _TASKS
        + f"""
        descriptor FREE + 24, 0x0000FFFF, 0x00CF1B00
        descriptor FREE + 32, 0x0000FFFF, 0x00CF1300
        system FREE + 40, tss_third, 0x67, 0x89
        system FREE + 48, tss_fourth, 0x67, 0x89
        mov dword [idt + 10 * 8], (FREE + 40) << 16
        mov dword [idt + 10 * 8 + 4], 0x8500
        mov dword [idt + 11 * 8], (FREE + 48) << 16
        mov dword [idt + 11 * 8 + 4], 0x8500
        task32 tss_third, .third
        mov dword [tss_third + 0x38], third_stack
        task32 tss_fourth, .fourth
        mov dword [tss_fourth + 0x38], third_stack
        task32 tss32, .task
        {change}
        try "{name}"
        jmp FREE:0
        done
        ret
.task:  hlt
.third: hex 10
        movzx edx, word [tss_third]
        jmp .show
.fourth:
        hex 11
        movzx edx, word [tss_fourth]
.show:  pop ecx
        hex ecx
        mov eax, edx
        hex eax
        mov eax, [tss32 + 0x20]
        sub eax, .task
        hex eax
        say "ok", 10
        jmp finish
align 16
tss_third: times 26 dd 0
tss_fourth: times 26 dd 0
        times 64 dd 0
third_stack:
"""
        + _DATA,
        f"{name}: {error} 00000080 00000000 ok",
        qemu=False,
    )


def test_16_bit_task(check: Check) -> None:
    """Words only; FS and GS become null; IRET back to a 32-bit task."""
    check(
        _TASKS
        + """
        descriptor FREE + 24, (.task16 - header) << 16 | 0xFFFF, 0x00009B10   ; its code begins its segment
        mov word [tss16 + 0x10], 2
        mov word [tss16 + 0x14], 0x1111                 ; CX
        mov word [tss16 + 0x18], 0x2222                 ; BX
        mov word [tss16 + 0x1A], 0x400                  ; SP
        mov word [tss16 + 0x22], DATA0
        mov word [tss16 + 0x24], FREE + 24
        mov word [tss16 + 0x26], STACK16
        mov word [tss16 + 0x28], DATA0
        mov eax, DATA0
        mov fs, eax
        try "16-bit"
        call FREE + 8:0
        mov eax, fs
        hex eax
        done
        ret
bits 16
.task16:
        o32 call dword CODE0:.log
        iretw
bits 32
.log:   movzx esp, sp                          ; its upper half is undefined
        movzx eax, cx
        hex eax
        movzx eax, bx
        hex eax
        mov eax, fs
        hex eax
        movzx eax, word [tss16]
        hex eax
        pushfd
        pop eax
        hex eax
        retf
"""
        + _DATA,
        "16-bit: 00001111 00002222 00000000 00000028 00004002 00000010 ok",
    )


def test_interrupt_tasks(check: Check) -> None:
    """A task gate in the IDT: INT n, and an exception with its error code on the new task's stack."""
    check(
        _TASKS
        + """
        mov dword [idt + 0x82 * 8], FREE << 16
        mov dword [idt + 0x82 * 8 + 4], 0x8500
        task32 tss32, .task
        try "INT"
        int 0x82
        done
        mov dword [idt + 13 * 8], FREE << 16
        mov dword [idt + 13 * 8 + 4], 0x8500
        task32 tss32, .fault
        try "#GP"
        mov eax, TSS
        mov ds, eax
        done
        mov eax, [stubs + 13 * 4]
        idt_gate 13, CODE0, eax, 0x8E00
        try "INT from ring 3"
        user .user
.user:  int 0x82
        int 0x81
        ends
        ret
.task:  show_state
        mov eax, [tss + 0x20]
        sub eax, [origin]
        hex eax
        iretd
.fault: pop eax
        hex eax
        mov eax, [tss + 0x20]
        sub eax, [origin]
        hex eax
        add dword [tss + 0x20], 2               ; go on behind the instruction
        mov eax, [tss + 0x24]
        and eax, 0x10000
        mov ebx, eax
        iretd
"""
        + _DATA,
        """
        INT: 00004000 00000080 0000008b 000000eb 00000008 00000002 ok
        #GP: 00000028 00000005 ok
        INT from ring 3: 0000000d 00000412 00000000
        """,
    )


def test_trap_bit(check: Check) -> None:
    """T in the new TSS: #DB before its first instruction, with DR6.BT. QEMU does not look at it."""
    check(
        _TASKS
        + """
        task32 tss32, .task
        mov word [tss32 + 0x64], 1
        idt_gate 1, CODE0, .debug, 0x8E00
        try "T"
        call FREE:0
        done
        ret
.debug: mov eax, [esp]
        sub eax, .task
        hex eax
        mov eax, dr6
        and eax, 0xE000
        hex eax
        iretd
.task:  say "task "
        iretd
"""
        + _DATA,
        "T: 00000000 00008000 task ok",
        qemu=False,
    )


def test_gate_to_local_tss(check: Check) -> None:
    """A TSS selector with TI set: #GP (APM vol. 3, JMP far). QEMU raises #TS."""
    check(
        _TASKS
        + """
        descriptor FREE + 16, (FREE + 4) << 16, 0xE500
        try "local"
        call FREE + 16:0
        done
        ret
"""
        + _DATA,
        "local: 0000000d 00000084 00000000",
        qemu=False,
    )


def test_local_breakpoints(check: Check) -> None:
    """A switch clears L0 to L3 in DR7; the others stay (APM vol. 2, 13.1.1.4)."""
    check(
        _TASKS
        + """
        task32 tss32, .task
        xor eax, eax
        mov dr0, eax
        mov dr1, eax
        mov eax, 0x107                          ; L0, G0, L1, LE
        mov dr7, eax
        try "DR7"
        call FREE:0
        mov eax, dr7
        hex eax
        done
        ret
.task:  iretd
"""
        + _DATA,
        "DR7: 00000502 ok",
    )
