"""IN and OUT on the shortest way from native code to a device and back.

Nearly always nothing follows from an access but that the next instruction runs. Then native code is entered again from
here; whatever else there is to do is left to the loop (engine/processor.py), which finds things as after any exit.
"""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.paging import PF_W
from trapgate.arch.registers import RAX, RDX
from trapgate.cpu.faults import Fault
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

    # Several turns of INS and OUTS at once

    def _run_place(self, segment: int, offset: int, size: int, count: int, write: bool) -> tuple[int, int]:
        """Where the run's elements are in RAM, and how many of them lie in the page of the element before them; else 0.

        That element has been translated and checked just now, so that no lookup is counted and none can fault.
        """
        if self.forms is not PYTHON_FORMS or self.sees_ports or self.q[layout.ALIGNMENT_CHECK >> 3]:
            return 0, 0
        try:
            linear = self.segment_linear(segment, offset, size, write)
            count = min(count, (_PAGE - linear % _PAGE) // size)
            if linear % _PAGE < size or count < 1:
                return 0, 0
            self.segment_linear(segment, offset + size * (count - 1), size, write)
        except Fault:
            return 0, 0  # it comes at its own element
        physical = self.translate(linear, self._user_access | (PF_W if write else 0))
        return (physical, count) if self.is_ram(physical) else (0, 0)

    def read_port_run(self, port: int, size: int, segment: int, offset: int, count: int) -> int:
        """INS."""
        if not self.bus.has_runs(port):
            return 0
        physical, count = self._run_place(segment, offset, size, count, True)
        data = self.bus.read_run(port, size, count) if count else b""
        if data:
            self.before_write(physical, len(data))
            self.ram[physical : physical + len(data)] = data
        return len(data) // size

    def write_port_run(self, port: int, size: int, segment: int, offset: int, count: int) -> int:
        """OUTS."""
        if not self.bus.has_runs(port):
            return 0
        physical, count = self._run_place(segment, offset, size, count, False)
        return self.bus.write_run(port, size, bytes(self.ram[physical : physical + size * count])) if count else 0


_PAGE = 4096
_ONES = {size: (1 << 8 * size) - 1 for size in (1, 2, 4)}
