"""The guest's code as it lies in memory, read without counting, filling or setting anything."""

from __future__ import annotations

from trapgate.arch import layout
from trapgate.arch.registers import CS
from trapgate.cpu.peek import peek
from trapgate.cpu.svm.guest_mode import GuestMode
from trapgate.machine.memory import PhysicalMemory

_M64 = (1 << 64) - 1


class CodePeek(GuestMode):
    """A processor whose code can be looked at."""

    memory: PhysicalMemory

    def _peek_page(self, linear: int) -> int | None:
        """Physical page of a linear address, without counting, filling or setting anything."""
        physical = peek(self.q, linear, self._peek_entry)
        return None if physical is None else self._ram_page(physical)

    def peek_code(self, size: int) -> bytes:
        """Up to `size` bytes at rip without side effects; fewer where the next page cannot be had or CS ends."""
        if self.bits != 64:
            size = min(size, self.segments[CS].limit - self.rip + 1)
        linear = self.rip if self.bits == 64 else self.segments[CS].base + self.rip & 0xFFFF_FFFF
        code = b""
        while len(code) < size:
            page = self._peek_page(linear + len(code))
            if page is None:
                break
            offset = linear + len(code) & 0xFFF
            code += bytes(self.ram[page + offset : page + min(4096, offset + size - len(code))])
        return code

    def _ram_page(self, physical: int) -> int | None:
        page = physical & ~0xFFF & self._a20_mask()
        return page if self.memory.is_ram(page) else None

    def _peek_entry(self, physical: int, size: int) -> int:
        physical &= self._a20_mask()
        if not self.memory.is_ram(physical, size):
            return 0
        return int.from_bytes(self.ram[physical : physical + size], "little")

    def _a20_mask(self) -> int:
        return _M64 if self.q[layout.NESTED >> 3] else self.q[layout.A20_MASK >> 3]
