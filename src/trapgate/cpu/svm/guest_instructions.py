"""What guest mode changes for single instructions: PAUSE, ports, CR8 (APM vol. 2, 15.14.4 and 15.21.2)."""

from __future__ import annotations

from trapgate.arch import vectors
from trapgate.cpu.faults import Fault
from trapgate.cpu.svm.guest_events import GuestEvents

_M64 = (1 << 64) - 1


class GuestInstructions(GuestEvents):
    """A processor whose guests' instructions may see other registers than the host's."""

    #: The guest runs without AMD-V: its code is translated, its exceptions are the hypervisor's (technique `software`).
    translated = False
    tsc_offset: int
    #: The filter of PAUSE: what is left of its count, and the TSC at the last one.
    _pause_left = _pause_last = 0

    def pause_runs_out(self) -> bool:
        """A PAUSE of a guest that is intercepted: whether the filter has run out (15.14.4)."""
        controls = self.controls
        if "PAUSE_FILTER" not in self.profile.svm_features or not controls.pause_count:
            return True
        now, last = self.time_stamp() - self.tsc_offset & _M64, self._pause_last
        self._pause_last = now
        threshold = controls.pause_threshold if "PAUSE_FILTER_THRESHOLD" in self.profile.svm_features else 0
        if threshold and now - last > threshold:
            self._pause_left = controls.pause_count
            return False
        self._pause_left -= 1
        if self._pause_left >= 0:
            return False
        self._pause_left = controls.pause_count
        return True

    def check_io(self, port: int, size: int) -> None:
        """Without AMD-V the task register is the hypervisor's, and its TSS allows no port: it looks at the guest's."""
        if self.in_guest and self.translated:
            raise Fault(vectors.GP, 0)
        super().check_io(port, size)

    def read_tpr(self) -> int:
        """CR8: with V_INTR_MASKING the virtual one (15.21.2)."""
        if self.in_guest and self.controls.v_intr_masking:
            return self.controls.v_tpr & 0xF
        return super().read_tpr()

    def write_tpr(self, value: int) -> None:
        """CR8."""
        if self.in_guest and self.controls.v_intr_masking:
            if value >> 4:
                raise Fault(vectors.GP, 0)
            self.controls.v_tpr = value
            return
        super().write_tpr(value)
        if self.in_guest:
            self.controls.v_tpr = value
