"""Shadow page tables: what the processor walks in place of the guest's own tables. Begin with `mmu.py`."""

from trapgate.vmm.shadow.mmu import ShadowMmu
from trapgate.vmm.shadow.outcomes import Counters, Device, Flush, Guest, Hardware, Outcome, Resume, TableWrite

__all__ = ["Counters", "Device", "Flush", "Guest", "Hardware", "Outcome", "Resume", "ShadowMmu", "TableWrite"]
