"""The hypervisor's instruction emulator.

`emulate` carries out one instruction of a guest that the hardware could not: an access to a device in memory, a write
to a guest page table that is shadowed. It sees registers and memory through two Protocols (machine.py). One file per
group of instructions: arithmetic.py, moves.py, strings.py, stack.py, vector.py.
"""

from trapgate.vmm.emulate.emulator import emulate
from trapgate.vmm.emulate.machine import CHECK, USER, WRITE, Emulated, Memory, NotEmulated, Registers
from trapgate.vmm.faults import GuestFault

__all__ = ["CHECK", "USER", "WRITE", "Emulated", "GuestFault", "Memory", "NotEmulated", "Registers", "emulate"]
