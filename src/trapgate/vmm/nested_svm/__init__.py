"""Nested virtualization: AMD-V for a guest that is itself a hypervisor.

The guest is L1, its guests are L2, the hypervisor here is L0. VMCB 12 is the one that L1 has made for L2, VMCB 01 is
L0's for L1, VMCB 02 is L0's for L2, with the intercepts of both. `instructions.py` has L1's VMRUN and its kin,
`entry.py` the way into L2, `leave.py` the way back, `state.py` what is kept between the two.
"""

from trapgate.vmm.nested_svm.state import NestedSvm

__all__ = ["NestedSvm"]
