"""Small guests in bytes, with their listings."""

from __future__ import annotations

ORIGIN = 0x7C00

#: Counts bx up to 5 in a loop of three instructions, writes it to memory each time, then exits.
COUNTER = bytes.fromhex(
    "31 db"  #          7c00 xor bx, bx
    "43"  #             7c02 inc bx
    "89 1e 00 05"  #    7c03 mov [500h], bx
    "83 fb 05"  #       7c07 cmp bx, 5
    "75 f6"  #          7c0a jne 7c02h
    "b0 00"  #          7c0c mov al, 0
    "e6 f4"  #          7c0e out f4h, al
)
LOOP = 0x7C02
STORE = 0x7C03

#: CPUID, a write to port e9h, a read of the local APIC's version through a 32-bit address, then #UD and its handler.
HOOKED = bytes.fromhex(
    "66 31 c0"  #                7c00 xor eax, eax
    "0f a2"  #                   7c03 cpuid
    "b0 41"  #                   7c05 mov al, 'A'
    "e6 e9"  #                   7c07 out e9h, al
    "c7 06 18 00 1b 7c"  #       7c09 mov word [6 * 4], handler
    "c7 06 1a 00 00 00"  #       7c0f mov word [6 * 4 + 2], 0
    "0f 0b"  #                   7c15 ud2
    "f4 f4 f4 f4"  #             7c17
    "cd 80"  #                   7c1b handler: int 80h (its vector leads to f000:0000 or 0)
)

#: Waits for a byte on COM1 and sends it back, for ever.
ECHO = bytes.fromhex(
    "ba fd 03"  #  7c00 mov dx, 3fdh
    "ec"  #        7c03 in al, dx
    "a8 01"  #     7c04 test al, 1
    "74 fb"  #     7c06 jz 7c03h
    "ba f8 03"  #  7c08 mov dx, 3f8h
    "ec"  #        7c0b in al, dx
    "ee"  #        7c0c out dx, al
    "eb f1"  #     7c0d jmp 7c00h
)
