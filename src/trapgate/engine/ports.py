"""IN and OUT on the shortest way from native code to a device and back.

Nearly always nothing follows from an access but that the next instruction runs. Then native code is entered again from
here; whatever else there is to do is left to the loop (engine/processor.py), which finds things as after any exit.
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.registers import RAX, RDX
from trapgate.engine import record
from trapgate.engine.debug_traps import DebugTraps
from trapgate.isa.processor import PYTHON_FORMS

_UOP, _PENDING = layout.EXIT_UOP >> 3, layout.INTERRUPT_PENDING >> 3


class Ports(DebugTraps):
    """A processor whose accesses to ports are quick."""

    def _exit_port(self, uop: int) -> int:
        if self.forms is not PYTHON_FORMS or self.sees_ports or self.port_breakpoints:
            return self._exit_python(uop)
        q, clock, control = self.q, self.clock, self.control
        read_port, write_port = self.bus.read_port, self.bus.write_port
        blocks, cost = self.blocks, self.costs.port
        words, base, sites, zero = blocks.words, blocks.base, blocks.sites, self._zero
        scheduled, deadline = clock.scheduled, clock.deadline
        while True:
            site = sites[words[(uop + record.LINK - base) >> 3]]
            self.rip, self.instruction_rip = site.next_rip, site.rip
            is_in, size, port = site.port
            if port is None:
                port = q[RDX] & 0xFFFF
            if is_in:
                self.set_register(RAX, 8 * size, read_port(port, size))
            else:
                write_port(port, size, q[RAX] & _ONES[size])
            self.device_cycles += cost
            now = clock.now = clock.now + cost
            if self.redirected:
                return 0
            uop = words[(uop + record.NEXT_LINK - base) >> 3]
            if clock.scheduled != scheduled:
                scheduled, deadline = clock.scheduled, clock.deadline
            if (
                now >= zero or q[_PENDING] or control.request is not None or self.smi_pending or self._reset_wanted
                or self.charged or (deadline is not None and deadline <= zero) or zero != self._zero
            ):  # fmt: skip
                return uop
            code = self.run_native(uop, zero, zero - now)
            uop = q[_UOP]
            if code != record.EXIT_PORT:
                after: int = self._exits[code](uop)
                return after


_ONES = {size: (1 << 8 * size) - 1 for size in (1, 2, 4)}
