"""Memory under the hypervisor: who owns which host frame, where a guest's RAM lies, nested page tables."""

from trapgate.vmm.memory.errors import FrameNotOwned, OutOfHostMemory, OutsideGuestMemory, VmmMemoryError
from trapgate.vmm.memory.frames import FrameAllocator
from trapgate.vmm.memory.guest import GuestMemory
from trapgate.vmm.memory.nested import NestedTables

__all__ = [
    "FrameAllocator",
    "FrameNotOwned",
    "GuestMemory",
    "NestedTables",
    "OutOfHostMemory",
    "OutsideGuestMemory",
    "VmmMemoryError",
]
