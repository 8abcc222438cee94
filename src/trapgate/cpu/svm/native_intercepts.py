"""What native code must leave to plain Python because a hypervisor intercepts it, or somebody outside wants to see it.

Instructions that native code carries out otherwise are other code then (cpu/mode.py); page faults have fields that it
looks at when it delivers one (cpu/native_delivery.py).
"""

from __future__ import annotations

from trapgate.arch import layout, vectors, vmcb
from trapgate.cpu.mode import KeptMode
from trapgate.cpu.svm.guest_instructions import GuestInstructions
from trapgate.isa.operand_tables import BASE_WRITE, CONTROL_READS, CONTROL_WRITES

#: Instructions that native code carries out unless they are intercepted: intercept -> operations.
_NATIVE_NAMES = {
    "rdtsc": ("rdtsc",), "pushf": ("pushf", "pushfd", "pushfq"), "popf": ("popf", "popfd", "popfq"),
    "iret": ("iretq_within",), "pause": ("pause",), "msr": (BASE_WRITE,),
}  # fmt: skip
#: Of a translated guest: the hypervisor's, as CPL 0 is.
_SYSTEM_CALLS = frozenset(("syscall_long",))
_NATIVE_BITS = vmcb.misc1(*_NATIVE_NAMES)
_RDTSCP = vmcb.misc2("rdtscp")
_NATIVES: dict[int, frozenset[str]] = {}


class NativeIntercepts(GuestInstructions):
    """A processor that knows what its native code may carry out."""

    #: The mode in which the last guest was left.
    kept_guest: KeptMode = None
    #: Native operations that somebody outside wants to see (api/hooks.py), and those and the intercepted ones of the
    #: last guest.
    seen_natives: frozenset[str] = frozenset()
    _intercepted_inside: frozenset[str] = frozenset()
    #: Whether somebody outside wants to see accesses to ports.
    sees_ports = False

    @property
    def runs_translated(self) -> bool:
        """Whether the code that runs is a translated guest's, whose system calls are its hypervisor's."""
        return self.in_guest and self.translated

    def see_natives(self, names: frozenset[str]) -> None:
        """Let plain Python carry out these native operations, too."""
        self.seen_natives |= names
        self.q[layout.WORLD_STATE_OF >> 3] = 0
        self.kept_guest = None
        if self.host is not None:
            self.host.mode = None
        self.intercepts_changed()

    def see_faults(self) -> None:
        """Let plain Python deliver every page fault."""
        self.q[layout.SEES_FAULTS >> 3] = 1

    def intercepts_changed(self) -> None:
        """Which instructions that native code carries out are intercepted has changed."""
        names, takes_faults = self.seen_natives, 0
        if self.in_guest:
            controls = self.controls
            if controls.natives is None:
                controls.natives = self._intercepted_natives()
            names |= controls.natives
            if self.translated:
                names |= _SYSTEM_CALLS
            self._intercepted_inside = names
            takes_faults = controls.exceptions >> vectors.PF & 1
        self.q[layout.DELIVERS_FAULTS >> 3] = takes_faults ^ 1
        if names != self.intercepted:
            self.intercepted = names
            self.mode_changed()

    def _intercepted_natives(self) -> frozenset[str]:
        word = self.controls.misc1 & _NATIVE_BITS | (self.controls.misc2 & _RDTSCP) << 32
        names = _NATIVES.get(word)
        if names is None:
            wanted = [group for intercept, group in _NATIVE_NAMES.items() if word & vmcb.misc1(intercept)]
            wanted += [("rdtscp",)] if word >> 32 else []
            names = _NATIVES[word] = frozenset(name for group in wanted for name in group)
        cr = self.controls.cr
        if cr:
            names |= {name for number, name in CONTROL_READS.items() if cr >> number & 1}
            names |= {name for number, name in CONTROL_WRITES.items() if cr >> 16 + number & 1}
        return names
