"""Tests of a kernel with pytest, by the `machine` fixture that trapgate's plugin gives.

    pytest examples/test_kernel.py

The second test fails, because the kernel divides by zero and has no handler for it. pytest's report shows what the
guest printed, the chain of its calls, its registers and the code where it stopped.
"""

from __future__ import annotations

import pytest

from trapgate.api import GuestExited, Machine

#: A multiboot kernel of 32-bit code at 1 MB, as an assembler and its map file would give it.
KERNEL = bytes.fromhex(
    "02b0ad1b00000100fe4f51e40000100000001000c0001000c000100020001000"  # the multiboot header
    "bcc000100031ede801000000f4"  # start:  mov esp, 1000c0h; xor ebp, ebp; call main; hlt
    "5589e5be64001000e8090000006a07e813000000c9c3"  # main:   print(text); divide(7)
    "5589e566bae900ac84c07403eeebf8c9c3"  # print:  lodsb; out 0e9h, al; until a zero byte
    "5589e5b86400000031d231c9f7f1c9c3"  # divide: mov eax, 100; xor ecx, ecx; div ecx
    "6b65726e656c3a206469766964696e670a00"  # text:   "kernel: dividing", 10, 0
).ljust(0xC0, b"\0")
SYMBOLS = {"start": 0x10_0020, "main": 0x10_002D, "print": 0x10_0043, "divide": 0x10_0054}


@pytest.mark.machine(memory="16M", symbols=SYMBOLS)
def test_the_kernel_prints(machine: Machine) -> None:
    machine.boot(image=KERNEL)
    machine.expect("kernel: dividing\n", seconds=1)


@pytest.mark.machine(memory="16M", symbols=SYMBOLS)
def test_the_kernel_ends_well(machine: Machine) -> None:
    machine.boot(image=KERNEL)
    assert machine.run(seconds=1) == GuestExited(1)
